{{/*
What the operator may do where its runs are: exactly the calls of selfrewarding.cluster and of kopf's watches.
No Secrets: pods get theirs from their own namespace, and the operator never reads one.
*/}}
{{- define "selfrewarding-operator.rules" -}}
# The runs: kopf adds its finalizer by patch; status is a subresource of its own.
- apiGroups: [selfrewarding.dev]
  resources: [selfrewardingruns]
  verbs: [get, list, watch, patch]
- apiGroups: [selfrewarding.dev]
  resources: [selfrewardingruns/status]
  verbs: [patch]
# Owner references that block the owner's deletion need this where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [selfrewarding.dev]
  resources: [selfrewardingruns/finalizers]
  verbs: [update]
# Children are made, watched and deleted, never changed: but for a Deployment's replicas.
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [create, delete, get, list, watch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, delete, get, list, watch]
- apiGroups: [kubeflow.org]
  resources: [pytorchjobs]
  verbs: [create, delete, get, list, watch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, delete, get, list, watch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [create, delete, get, list, patch, watch]
# Progress and outcome of the children's pods.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# What the operator tells people, and what the cluster says of a pod that does not start.
- apiGroups: [""]
  resources: [events]
  verbs: [create, get, list, patch]
{{- end -}}
