package attach

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
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

// Two streams into one file, as with "> file 2>&1", lose nothing.
func TestPassageSharedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	const lines = 3000
	line := bytes.Repeat([]byte("x"), 1000)
	var both sync.WaitGroup
	for range 2 {
		in, source := ends(t, false)
		go func() {
			for range lines {
				_, _ = source.Write(line)
			}
			source.Close()
		}()
		both.Go(func() {
			if err := carry(int(in.Fd()), int(out.Fd())); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if info, err := os.Stat(path); err != nil || info.Size() != 2*lines*int64(len(line)) {
		t.Errorf("%d bytes in the file, %v; want %d", info.Size(), err, 2*lines*len(line))
	}
}

// Whoever writes to the session can be killed while a socket that the bytes go
// to has no room.
func TestPassageStalledSocket(t *testing.T) {
	in, source := ends(t, false)
	sink, out := ends(t, true)
	yes := exec.Command("yes")
	yes.Stdout = source
	if err := yes.Start(); err != nil {
		t.Fatal(err)
	}
	passed := make(chan error)
	go func() { passed <- carry(int(in.Fd()), int(out.Fd())) }()
	var st, before string
	for range 1000 { // until it stands still in a write
		time.Sleep(5 * time.Millisecond)
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", yes.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if st = string(text); st == before {
			break
		}
		before = st
	}
	if err := yes.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- yes.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("yes was not killed")
		}
	case <-time.After(20 * time.Second):
		t.Errorf("yes cannot be killed: %s", st)
	}
	sink.Close()
	if err := <-passed; err == nil {
		t.Error("carry went on without a reader")
	}
}

// What is written in little pieces finds as much room as it would without us.
func TestPassageLittle(t *testing.T) {
	in, source := ends(t, false)
	_, out := ends(t, false)
	p := newPassage(int(in.Fd()), int(out.Fd()))
	done := make(chan bool)
	go func() {
		for range 500 {
			if _, err := source.WriteString("little\n"); err != nil {
				t.Error(err)
			}
			if n, err := p.pass(); n != 7 || err != nil {
				t.Errorf("pass = %d, %v; want 7", n, err)
			}
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("3500 bytes do not fit into a pipe")
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
