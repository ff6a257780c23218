package leaf

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of the v1 kill loop. The wait doubles from killWait up to
// 16*killWait, so the whole takes about a second at most. A process with
// threads in uninterruptible sleep may outlive it.
const (
	killRounds = 80
	killWait   = time.Millisecond
)

// batch bounds the pidfds that one round holds open at a time.
const batch = 64

// Kill sends SIGKILL to everything in the leaf but the calling process. V2
// does it in one step (cgroup.kill, Linux 5.14), and the dead may still be
// listed for a moment. V1 first forbids new processes (pids.max=0), then kills
// in rounds until the leaf is empty; EBUSY says that it was not after the last
// round, which is also so as long as a thread of the caller is in it.
func (l *Leaf) Kill() error {
	if l.box.mode == V2 {
		return l.write(l.fds[0], "cgroup.kill", "1")
	}
	for _, fd := range l.fds {
		// Only one of the hierarchies has the file.
		if err := l.write(fd, "pids.max", "0"); err != nil && !isErrno(err, unix.ENOENT) {
			return err
		}
	}
	wait := killWait
	for range killRounds {
		left, err := KillRound(l.Pids)
		if err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		time.Sleep(wait)
		wait = min(2*wait, 16*killWait)
	}
	return &Error{"kill", l.name, unix.EBUSY}
}

// KillRound sends SIGKILL once to every process that list returns and reports
// how many there were. It never hits a stranger that got the number of a
// process that has ended: a process is held by a pidfd first, and killed only
// if the list still names it afterwards. The calling process is counted, but
// spared.
func KillRound(list func() ([]int, error)) (left int, err error) {
	pids, err := list()
	if err != nil {
		return 0, err
	}
	self := unix.Getpid()
	for at := 0; at < len(pids); at += batch {
		if err := killBatch(pids[at:min(at+batch, len(pids))], self, list); err != nil {
			return 0, err
		}
	}
	return len(pids), nil
}

// killBatch kills those of pids that list still names.
func killBatch(pids []int, self int, list func() ([]int, error)) error {
	held := make(map[int]int, len(pids)) // pid to pidfd
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		if pid <= 0 || pid == self {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err == unix.ESRCH {
			continue
		}
		if err != nil {
			return &Error{"pidfd_open", strconv.Itoa(pid), err}
		}
		held[pid] = fd
	}
	still, err := list()
	if err != nil {
		return err
	}
	for _, pid := range still {
		fd, ok := held[pid]
		if !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			return &Error{"pidfd_send_signal", strconv.Itoa(pid), err}
		}
	}
	return nil
}

// pids reads cgroup.procs below the directory dir.
func (l *Leaf) pids(dir int) ([]int, error) {
	const file = "cgroup.procs"
	fd, err := openat(dir, file, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, &Error{"openat", l.name + "/" + file, err}
	}
	defer unix.Close(fd)
	var data []byte
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &Error{"read", l.name + "/" + file, err}
		case n == 0:
			return ParsePids(data), nil
		}
		data = append(data, buf[:n]...)
	}
}

// ParsePids reads the lines of a cgroup.procs file. A process outside the
// reader's pid namespace is listed as 0 and left out, as is a line that is no
// number, which the kernel never writes.
func ParsePids(data []byte) []int {
	var pids []int
	for len(data) > 0 {
		end := 0
		for end < len(data) && data[end] != '\n' {
			end++
		}
		if pid, err := strconv.Atoi(string(data[:end])); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
		data = data[min(end+1, len(data)):]
	}
	return pids
}

// union appends to pids those of more that it does not hold.
func union(pids, more []int) []int {
	if len(pids) == 0 {
		return more
	}
	seen := make(map[int]bool, len(pids))
	for _, pid := range pids {
		seen[pid] = true
	}
	for _, pid := range more {
		if !seen[pid] {
			seen[pid] = true
			pids = append(pids, pid)
		}
	}
	return pids
}

func isErrno(err error, errno unix.Errno) bool {
	e, ok := err.(*Error) //nolint:errorlint // made in this package, never wrapped
	return ok && e.Err == errno
}
