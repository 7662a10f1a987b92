// The few programs of the test cluster's own small images, in one static binary that acts by the name it is called by.
//
//	pause         holds a pod's namespaces, and reaps what is left to it
//	nslookup NAME exits 0 once NAME, with the search list of /etc/resolv.conf, has an address; training-operator's
//	              workers wait in a loop over it (Debian's BusyBox fails for short names, its wget for all)
//	fetch URL     prints what an HTTP server answers; exits 0 if it answered at all
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	name := filepath.Base(os.Args[0])
	if name == "pause" {
		pause()
		return
	}
	if len(os.Args) != 2 {
		fail("%s needs one argument, found %d", name, len(os.Args)-1)
	}
	switch name {
	case "nslookup":
		lookUp(os.Args[1])
	case "fetch":
		fetch(os.Args[1])
	default:
		fail("call it as pause, nslookup or fetch, not as %q", name)
	}
}

func pause() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			if gone, _ := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); gone <= 0 {
				break
			}
		}
	}
}

func lookUp(name string) {
	addresses, err := net.LookupHost(name)
	if err != nil {
		fail("%v", err)
	}
	for _, address := range addresses {
		fmt.Printf("Name:\t%s\nAddress: %s\n", name, address)
	}
}

func fetch(url string) {
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		fail("%v", err)
	}
	defer answer.Body.Close()
	fmt.Println(answer.Status)
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		fail("%v", err)
	}
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}
