package spawn

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// stat is what proc_pid_stat(5) says of a process.
type stat struct {
	name       string // of the program; anything, processes choose it
	parent     int
	session    int
	foreground int // process group of its terminal, -1 without one
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(b))
}

// parseStat takes a line of /proc/PID/stat. The name is in parentheses and
// may hold any byte, so the last closing one counts.
func parseStat(line string) (stat, error) {
	first, last := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if first < 0 || last < first {
		return stat{}, errors.New("malformed stat")
	}
	fields := strings.Fields(line[last+1:]) // from the third one, the state
	if len(fields) < 6 {
		return stat{}, errors.New("malformed stat")
	}
	st := stat{name: line[first+1 : last]}
	for _, f := range []struct {
		to *int
		at int
	}{{&st.parent, 1}, {&st.session, 3}, {&st.foreground, 5}} {
		n, err := strconv.Atoi(fields[f.at])
		if err != nil {
			return stat{}, err
		}
		*f.to = n
	}
	return st, nil
}

func everyPid() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killUnborn kills children that have not executed anything yet. One that is
// stopped in between holds the thread that forked it (vfork(2)), and with it
// every later login of this user.
func (s *Server) killUnborn() {
	own, err := readStat(unix.Getpid())
	if err != nil {
		return
	}
	pids, _ := everyPid()
	for _, pid := range pids {
		st, err := readStat(pid)
		if err != nil || st.parent != 1 || st.name != own.name {
			continue
		}
		s.mu.Lock()
		_, started := s.live[pid]
		s.mu.Unlock()
		if !started {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}
