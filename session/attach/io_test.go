package attach

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ends makes the two ends of a stream: what is written to the second can be
// read from the first.
func ends(t *testing.T, socket bool) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	var err error
	if socket {
		fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	} else {
		err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// carry passes all that from has, as drain and feed do.
func carry(from, to int) error {
	p := newPassage(from, to)
	for {
		n, err := p.pass()
		switch {
		case errors.Is(err, unix.EAGAIN):
			if _, err := await([]unix.PollFd{{Fd: int32(from), Events: unix.POLLIN}}, -1); err == nil {
				p.fed = true
			}
		case n <= 0 || err != nil:
			return err
		}
	}
}

// TestPassage passes a megabyte and a bit between all that a session's ends can
// be, to a reader who sleeps now and then.
func TestPassage(t *testing.T) {
	data := make([]byte, 1<<20+17)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	for _, tt := range []struct {
		name             string
		socketIn, nonblk bool
		socketOut        bool
	}{
		{"pipes", false, true, false}, {"pipes that block", false, false, false},
		{"socket to pipe", true, true, false}, {"socket to pipe that blocks", true, false, false},
		{"pipe to socket", false, true, true}, {"sockets", true, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, source := ends(t, tt.socketIn)
			sink, out := ends(t, tt.socketOut)
			if err := unix.SetNonblock(int(in.Fd()), tt.nonblk); err != nil {
				t.Fatal(err)
			}
			go func() {
				_, _ = source.Write(data)
				source.Close()
			}()
			passed := make(chan error, 1)
			go func() {
				passed <- carry(int(in.Fd()), int(out.Fd()))
				out.Close()
			}()
			var got bytes.Buffer
			for {
				n, err := io.CopyN(&got, sink, 100_000)
				if n == 0 || err != nil {
					break
				}
				time.Sleep(time.Millisecond) // out fills up
			}
			if err := <-passed; err != nil || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%d of %d bytes, %v", got.Len(), len(data), err)
			}
		})
	}
}

// The kernel splices nothing into a file that is appended to.
func TestPassageCopies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, source := ends(t, false)
	if _, err := source.WriteString("all of it"); err != nil {
		t.Fatal(err)
	}
	source.Close()
	if err := carry(int(in.Fd()), int(out.Fd())); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "all of it" {
		t.Errorf("%q, %v", text, err)
	}
}

// Nobody reads any more: the stream ends.
func TestPassageBroken(t *testing.T) {
	in, source := ends(t, false)
	sink, out := ends(t, false)
	sink.Close()
	if _, err := source.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if err := carry(int(in.Fd()), int(out.Fd())); !errors.Is(err, unix.EPIPE) {
		t.Errorf("pass = %v; want EPIPE", err)
	}
}
