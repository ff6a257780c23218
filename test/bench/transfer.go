package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// A transfer is one kind of moving bytes through a session of an account.
type transfer struct {
	name string
	mib  int
	tty  bool
	up   bool
}

// transfers measures bytes through ssh into Carrel and into plain bash.
func transfers(ctx context.Context, t *table, sshd *host.SSHD, alice, plain host.Account, o options) error {
	for _, kind := range []transfer{
		{"pipes, to the session", o.pipeMiB, false, true},
		{"pipes, from the session", o.pipeMiB, false, false},
		{"terminal, to the session", o.ttyMiB, true, true},
		{"terminal, from the session", o.ttyMiB, true, false},
	} {
		ways := []way{{account: alice}, {account: plain}}
		if kind.tty {
			// What else relays between two terminals, and nothing more.
			ways = append(ways, way{account: plain, by: "script -qec"})
		}
		rates := make([][]float64, len(ways))
		for range o.repeats {
			for i, w := range ways {
				d, err := kind.once(ctx, sshd, w)
				if err != nil {
					return fmt.Errorf("%s, %s %s: %w", kind.name, w.account.Name, w.by, err)
				}
				rates[i] = append(rates[i], float64(kind.mib)/d.Seconds())
			}
		}
		bash := median(rates[1])
		name := fmt.Sprintf("%s, %d MiB through ssh", kind.name, kind.mib)
		row := func(name string, rate float64) {
			t.row(name, fmt.Sprintf("%.0f MiB/s", rate), "", fmt.Sprintf("%.2f × plain bash (%.0f MiB/s)", rate/bash, bash))
		}
		row(name, median(rates[0]))
		if kind.tty {
			row("the same by `script` on the host", median(rates[2]))
		}
	}
	return nil
}

// A way is how a command gets its terminal.
type way struct {
	account host.Account
	by      string // a program that runs the command on a terminal of its own
}

// once moves the bytes and returns the time between the session's first word
// and its last, so that neither ssh's key exchange nor the login is in it.
func (k transfer) once(ctx context.Context, sshd *host.SSHD, w way) (time.Duration, error) {
	bytes := int64(k.mib) << 20
	// The terminal must not take any byte for a key.
	command := "exec 2>&1; test ! -t 0 || stty raw -echo; echo begin; "
	if k.up {
		command += fmt.Sprintf("head -c %d | wc -c", bytes)
	} else {
		command += fmt.Sprintf("head -c %d /dev/zero; echo end", bytes)
	}
	if w.by != "" {
		command = w.by + " '" + command + "' /dev/null"
	}
	var options []string
	if k.tty {
		options = []string{"-tt", "-e", "none"}
	}
	cmd := sshd.Command(w.account, command, options...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = cmd.Process.Kill() }()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	d, err := k.time(in, bufio.NewReaderSize(out, 1<<20), bytes)
	if err != nil {
		return 0, err
	}
	in.Close()
	return d, finish(cmd)
}

func (k transfer) time(in io.Writer, out *bufio.Reader, bytes int64) (time.Duration, error) {
	if line, err := out.ReadString('\n'); err != nil || strings.TrimSpace(line) != "begin" {
		return 0, fmt.Errorf("%q, %w", line, err)
	}
	begin := time.Now()
	want := "end"
	if k.up {
		want = fmt.Sprint(bytes)
		if _, err := io.CopyN(in, zeroes{}, bytes); err != nil {
			return 0, err
		}
	} else if _, err := io.CopyN(io.Discard, out, bytes); err != nil {
		return 0, err
	}
	line, err := out.ReadString('\n')
	d := time.Since(begin)
	if strings.TrimSpace(line) != want {
		return 0, fmt.Errorf("%q at the end, want %q: %w", line, want, err)
	}
	return d, nil
}

func finish(cmd *exec.Cmd) error {
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", cmd.Path, err)
	}
	return nil
}

// zeroes is an endless reader.
type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
