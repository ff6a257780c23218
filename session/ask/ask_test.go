package ask

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
)

func TestOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.sock")
	if _, _, err := own(path, "carrel status"); !errors.Is(err, ErrOutside) {
		t.Errorf("without a socket: %v; want %v", err, ErrOutside)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, answer := range []string{"\x03a\nb\n", "\x00", ""} {
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			buf := make([]byte, 64)
			if n, _ := conn.Read(buf); string(buf[:n]) == "carrel status" {
				_, _ = conn.Write([]byte(answer))
			}
		}()
		text, status, err := own(path, "carrel status")
		if answer == "" {
			if err == nil {
				t.Error("no answer is no error")
			}
			continue
		}
		if err != nil || status != int(answer[0]) || text != answer[1:] {
			t.Errorf("own = %q, %d, %v; want %q", text, status, err, answer)
		}
	}
}
