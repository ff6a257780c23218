// Carrel is the administrator's command: what runs, what should stop, which
// images there are, and who would get what. See carrel(1).
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Set by the linker.
var (
	version    = "devel"
	socketPath = "/run/carrel/login.sock"
)

func main() {
	// An import that is interrupted takes back what it began.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	a := app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()}
	status := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

// An app is one run of the command.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string

	configPath, runDir, stateDir, libexecDir string // global flags
	asJSON                                   bool   // of the commands that have --json

	running bool // the command line was understood
}
