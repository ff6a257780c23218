package scp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

const (
	// maxLine bounds a record and a message, newline included. A name is at
	// most 255 bytes long on Linux; OpenSSH's buffer is 16 KiB.
	maxLine = 16 << 10
	// chunk is how much of a file is in memory.
	chunk = 64 << 10
)

// errLost says that the other side went away in the middle.
var errLost = errors.New("lost connection")

// A peer is the other side.
type peer struct {
	in     *bufio.Reader
	out    io.Writer
	failed bool // something was refused, here or there
}

func newPeer(in io.Reader, out io.Writer) *peer {
	return &peer{in: bufio.NewReaderSize(in, chunk), out: out}
}

// send writes text as it is.
func (p *peer) send(text string) error {
	_, err := io.WriteString(p.out, text)
	return err
}

// accept answers yes.
func (p *peer) accept() error { return p.send("\x00") }

// refuse answers no, and why. The transfer goes on.
func (p *peer) refuse(why string) error {
	p.failed = true
	return p.send("\x01scp: " + printable(why) + "\n")
}

// line reads up to a newline, which it takes off. It returns io.EOF only if
// there is nothing at all. The bytes are valid until the next read.
func (p *peer) line() ([]byte, error) {
	b, err := p.in.ReadSlice('\n')
	switch {
	case len(b) > maxLine || errors.Is(err, bufio.ErrBufferFull):
		return nil, protocolError("record is too long")
	case errors.Is(err, io.EOF) && len(b) == 0:
		return nil, io.EOF
	case err != nil:
		return nil, errLost
	}
	return b[:len(b)-1], nil
}

// response reads the answer of the other side; refused is a 1, after which the
// transfer goes on.
func (p *peer) response() (refused bool, err error) {
	code, err := p.in.ReadByte()
	if err != nil {
		return false, errLost
	}
	if code == 0 {
		return false, nil
	}
	p.failed = true
	unsafeWhy, err := p.line()
	if errors.Is(err, io.EOF) {
		err = errLost
	}
	if err == nil && code != 1 {
		err = fmt.Errorf("the other side ended it: %q", unsafeWhy)
	}
	return true, err
}

// reason is what strerror(3) says of err, which clients print.
func reason(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	text := errno.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// printable keeps what is not text away from the client's terminal, and the
// answer in one line.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), maxLine/2)]
}
