package attach

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A client has vanished when all three streams have lost their other end, and
// not before: each of them alone ends in everyday use.
func TestClosed(t *testing.T) {
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			r.Close()
			w.Close()
		})
		return r, w
	}
	inR, inW := pipe()
	outR, outW := pipe()
	errR, errW := pipe()
	var c closed
	look := func() bool {
		fds := c.watch(false)
		for i, f := range []*os.File{inR, outW, errW} {
			if fds[i].Fd >= 0 { // in place of the process's own
				fds[i].Fd = int32(f.Fd())
			}
		}
		if _, err := unix.Poll(fds, 0); err != nil {
			t.Fatal(err)
		}
		return c.note(fds)
	}
	for _, step := range []struct {
		what  string
		close *os.File
		want  bool
	}{{"nothing", nil, false}, {"stdin", inW, false}, {"stdin and stdout", outR, false}, {"all", errR, true}, {"all, told before", nil, false}} {
		if step.close != nil {
			step.close.Close()
		}
		if got := look(); got != step.want {
			t.Errorf("%s closed: note = %v; want %v", step.what, got, step.want)
		}
	}
	for _, fd := range (closed{}).watch(true) {
		if fd.Fd != -1 {
			t.Errorf("watch(true) polls %d", fd.Fd)
		}
	}
}
