// Demo shows Carrel on a machine that has none: it builds and installs into a
// temporary directory, starts a private carreld, and opens a shell inside a
// container, as the user behind sudo or as a throw-away account. With an
// argument that is not empty it runs that instead. It takes everything away
// again, also when interrupted, and exits with the status of what it ran.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/carrel-sh/carrel/test/internal/host"
)

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(max(status, 1))
	}
	os.Exit(status)
}

func run(args []string) (status int, err error) {
	// With a handler, an interrupt ends what runs in the foreground and not
	// this process, which has to clean up.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	fmt.Fprintln(os.Stderr, "demo: building")
	h, err := host.New(ctx, "demo")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	user, err := account(h)
	if err != nil {
		return 1, err
	}
	rule := fmt.Sprintf("[[rule]]\nusers = [%q]\n", user.Name)
	if _, err := h.Start(host.Options{Config: rule}); err != nil {
		return 1, err
	}
	if ctx.Err() != nil {
		return 130, nil
	}
	var call []string
	if len(args) > 0 && args[0] != "" {
		call = []string{"-c", args[0]}
	} else {
		fmt.Fprintf(os.Stderr, "demo: a shell in %s's container; leave it with exit\n", user.Name)
		call = []string{"-l"}
	}
	return session(ctx, h, user, call)
}

// account returns the user behind sudo, or one made for the occasion.
func account(h *host.Host) (host.Account, error) {
	if name := os.Getenv("SUDO_USER"); name != "" && name != "root" {
		return host.Lookup(name)
	}
	return h.Account("", "")
}

// session runs carrelsh as the user, on our own standard streams and in our
// own foreground process group, and returns the status as a shell tells it.
func session(ctx context.Context, h *host.Host, user host.Account, args []string) (int, error) {
	// -l and not an argv[0] that begins with '-': the environment is ours.
	cmd := exec.Command(h.Path("carrelsh"), args...)
	cmd.Env = append(user.Environ(), "TERM="+os.Getenv("TERM"))
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user.Credential()}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	// SIGINT from a terminal reached the whole group already; the others are
	// passed on.
	pass := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGHUP) })
	defer pass()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
