// Intruder is what an attacker would run inside a container. It tries one kind
// of attack, goes on after each failure, and writes one line for each attempt:
// its name and "ok", or why it was refused. What the lines ought to say is for
// the tests of package attack to know, which run it on the host as well.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 || attacks[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: intruder ATTACK [ARG]")
		os.Exit(2)
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	attacks[os.Args[1]](&report{out}, os.Args[2:])
}

var attacks = map[string]func(r *report, args []string){
	"process": attackProcess, "terminal": attackTerminal, "calls": attackCalls, "sockets": attackSockets,
	"terminals": takeTerminals, "memory": takeMemory, "processes": takeProcesses, "unborn": reachUnborn,
	"wait": func(*report, []string) { _ = unix.Pause() },
}

// A report writes what became of each attempt.
type report struct{ w *bufio.Writer }

func (r *report) tell(what string, err error) {
	var errno unix.Errno
	switch {
	case err == nil:
		fmt.Fprintf(r.w, "%s ok\n", what)
	case errors.As(err, &errno) && unix.ErrnoName(errno) != "":
		fmt.Fprintf(r.w, "%s %s\n", what, unix.ErrnoName(errno))
	default:
		fmt.Fprintf(r.w, "%s %q\n", what, err.Error())
	}
}

// wait says that it is ready and stays until its standard input ends.
func (r *report) wait() {
	r.w.Flush()
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}

// takeTerminals opens terminals until there are no more, and keeps them.
func takeTerminals(r *report, _ []string) {
	for n := 0; ; n++ {
		if _, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0); err != nil || n == 4096 {
			r.tell(strconv.Itoa(n), err)
			break
		}
	}
	r.wait()
}

// takeMemory takes and touches memory until it is killed.
func takeMemory(*report, []string) {
	for {
		b, err := unix.Mmap(-1, 0, 16<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			os.Exit(3)
		}
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
	}
}

// takeProcesses starts processes until there are no more, and keeps them.
func takeProcesses(r *report, _ []string) {
	for n := 0; ; n++ {
		_, err := syscall.ForkExec("/proc/self/exe", []string{"intruder", "wait"}, &syscall.ProcAttr{})
		if err != nil || n == 4096 {
			r.tell(strconv.Itoa(n), err)
			break
		}
	}
	r.wait()
}

// reachUnborn stops every child of PID 1 that has not executed anything yet,
// or attaches to it, or opens its memory, until standard input ends.
func reachUnborn(r *report, args []string) {
	done := make(chan struct{})
	go func() {
		r.wait()
		close(done)
	}()
	r.w.Flush()
	reached, last := 0, 0
	for {
		select {
		case <-done:
			r.tell(fmt.Sprintf("reached %d", reached), nil)
			return
		default:
		}
		pid := newest()
		if pid == last || !unborn(pid) {
			continue
		}
		last = pid
		// What was had from one that is unborn still was had of PID 1: they share
		// their memory until the exec.
		if reach(pid, args) == nil && unborn(pid) {
			reached++
		}
	}
}

func reach(pid int, how []string) error {
	switch {
	case slices.Contains(how, "ptrace"):
		return unix.PtraceSeize(pid)
	case slices.Contains(how, "mem"):
		f, err := os.OpenFile("/proc/"+strconv.Itoa(pid)+"/mem", os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		return err
	}
	return unix.Kill(pid, unix.SIGSTOP)
}

// newest returns the last pid that was given out in this namespace (field 5 of
// /proc/loadavg, proc(5)).
func newest() int {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b)
	pid, err := strconv.Atoi(string(fields[len(fields)-1]))
	if err != nil {
		return 0
	}
	return pid
}

// unborn says that a process has PID 1's name and is its child.
func unborn(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	var id, parent int
	var name, state string
	n, _ := fmt.Sscan(string(b), &id, &name, &state, &parent)
	return n == 4 && parent == 1 && name == "(init)"
}
