// Carreld is the daemon behind carrelsh: it decides who gets which container
// and starts it. See carreld(8).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

var version = "devel" // set by the linker

func main() {
	o, showVersion, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "carreld: %v; see carreld -help\n", err)
		os.Exit(exitUsage)
	case showVersion:
		fmt.Println("carreld", version)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	log := newLogQueue(logHandler())
	err = run(ctx, o, slog.New(log.handler()))
	stop()
	log.flush(logFlush)
	if err != nil {
		say := newLogQueue(nil) // nor does the end wait for who reads standard error
		say.put(func() { fmt.Fprintln(os.Stderr, "carreld:", err) })
		say.flush(logFlush)
		os.Exit(exitStatus(err))
	}
}

// parse reads the command line. With flag.ErrHelp it has printed the help.
func parse(args []string) (o options, showVersion bool, err error) {
	flags := flag.NewFlagSet("carreld", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // a mistake is one line, of main's
	flags.StringVar(&o.config, "config", "/etc/carrel/carrel.toml", "configuration `file`; a missing one means the defaults")
	flags.StringVar(&o.runDir, "run-dir", "/run/carrel", "`directory` of sockets and running containers")
	flags.StringVar(&o.stateDir, "state-dir", "/var/lib/carrel", "`directory` of homes, layers and images")
	flags.StringVar(&o.libexecDir, "libexec-dir", defaultLibexec(), "`directory` of carrel-runtime and carrel-init")
	flags.StringVar(&o.cgroup, "cgroup", "/carrel", "absolute cgroup `path`; everything below it is carreld's")
	flags.BoolVar(&showVersion, "version", false, "print the version")
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("there are no arguments, but %q was given", flags.Arg(0))
	}
	return o, showVersion, err
}
