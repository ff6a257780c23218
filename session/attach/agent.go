package attach

import (
	"sync"

	"golang.org/x/sys/unix"
)

// relayAgent connects a program of the container to the user's SSH agent. The
// agent's socket is dialled here, as the user and on the host; no descriptor
// of it goes in. It only answers what it is asked, as for any program.
func (s *attached) relayAgent(inside int) {
	defer unix.Close(inside)
	outside, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(outside)
	if s.agent == "" || unix.Connect(outside, &unix.SockaddrUnix{Name: s.agent}) != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { pour(outside, inside) })
	pour(inside, outside)
	both.Wait()
}

// pour copies a stream and passes its end on.
func pour(to, from int) {
	buf := make([]byte, 16<<10)
	for {
		n, err := read(from, buf)
		if n <= 0 || err != nil || writeAll(to, buf[:n]) != nil {
			break
		}
	}
	_ = unix.Shutdown(to, unix.SHUT_WR)
	_ = unix.Shutdown(from, unix.SHUT_RD)
}
