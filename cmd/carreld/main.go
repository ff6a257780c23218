// Carreld is the daemon behind carrelsh: it decides who gets which container
// and starts it. See carreld(8).
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

var version = "devel" // set by the linker

func main() {
	var o options
	flag.StringVar(&o.config, "config", "/etc/carrel/carrel.toml", "configuration `file`; a missing one means the defaults")
	flag.StringVar(&o.runDir, "run-dir", "/run/carrel", "`directory` of sockets and running containers")
	flag.StringVar(&o.stateDir, "state-dir", "/var/lib/carrel", "`directory` of homes, layers and images")
	flag.StringVar(&o.libexecDir, "libexec-dir", defaultLibexec(), "`directory` of carrel-runtime and carrel-init")
	flag.StringVar(&o.cgroup, "cgroup", "/carrel", "absolute cgroup `path`; everything below it is carreld's")
	showVersion := flag.Bool("version", false, "print the version")
	flag.Parse()
	if *showVersion {
		fmt.Println("carreld", version)
		return
	}
	logger := slog.New(logHandler())
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "carreld: takes no arguments; see carreld -help")
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, o, logger)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "carreld:", err)
		os.Exit(exitStatus(err))
	}
}
