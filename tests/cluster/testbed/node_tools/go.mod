module node-tools

go 1.22
