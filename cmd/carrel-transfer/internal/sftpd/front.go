package sftpd

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A front is the library's connection to the client. The library reads requests
// and writes replies; requests that are the front's own never reach it.
type front struct {
	in       io.Reader
	out      io.Writer
	permit   filter
	readOnly bool

	request []byte // the buffer of one request
	pending []byte // what of it the library has not read yet

	mu     sync.Mutex
	idle   sync.Cond // on mu: waiting is 0, or broken is set
	reply  []byte    // what the library has written of a reply
	asked  int       // requests that the library has and did not answer yet
	broken error     // of out; no more is written after it
}

func newFront(in io.Reader, out io.Writer) *front {
	f := &front{in: in, out: out}
	f.idle.L = &f.mu
	return f
}

// Read hands a request to the library. It is called from one goroutine.
func (f *front) Read(b []byte) (int, error) {
	for len(f.pending) == 0 {
		if err := f.receive(); err != nil {
			if broken := f.end(err); broken != nil {
				err = broken
			}
			return 0, err
		}
		reply, err := f.answer(f.request[4:])
		if err != nil {
			return 0, err
		}
		if reply == nil {
			f.mu.Lock()
			f.asked++
			f.mu.Unlock()
			f.pending = f.request
		}
	}
	n := copy(b, f.pending)
	f.pending = f.pending[n:]
	return n, nil
}

// end waits for the last replies when the client has ended: the library, told
// of it, drops what it has not written yet.
func (f *front) end(err error) error {
	if !errors.Is(err, io.EOF) {
		return nil
	}
	return f.drain()
}

// receive reads one request into f.request. It returns io.EOF only between two.
func (f *front) receive() error {
	var length [4]byte
	if _, err := io.ReadFull(f.in, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > maxPacket {
		return errMalformed
	}
	f.request = append(f.request[:0], length[:]...)
	f.request = append(f.request, make([]byte, n)...)
	_, err := io.ReadFull(f.in, f.request[4:])
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// answer replies to the requests that are the front's own, and returns nil for
// those that are the library's.
func (f *front) answer(request []byte) ([]byte, error) {
	own, name := f.route(request)
	if own == nil && (name == "" || f.permit.permits(name)) {
		return nil, nil
	}
	if err := f.drain(); err != nil {
		return nil, err
	}
	r := &reader{rest: request[1:]}
	var reply []byte
	switch {
	case request[0] == fxpInit:
		reply = f.version()
	case !f.permit.permits(name), f.readOnly && changes(request[0]):
		reply = status(r.uint32(), fxPermissionDenied, "Permission denied")
	default:
		reply = own(r)
	}
	if r.bad {
		return nil, errMalformed
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, f.broken = f.out.Write(reply)
	return reply, f.broken
}

// route returns the front's function for a request, or nil, and its name.
func (f *front) route(request []byte) (own func(*reader) []byte, name string) {
	wire := ""
	switch kind := request[0]; kind {
	case fxpInit:
		own = func(*reader) []byte { return nil }
	case fxpRemove:
		own = remove
	case fxpMkdir:
		own = mkdir
	case fxpRmdir:
		own = rmdir
	case fxpRealpath:
		own = realPath
	case fxpRename:
		own = rename
	case fxpExtended:
		r := &reader{rest: request[1:]}
		r.uint32()
		if wire = r.text(); wire == "expand-path@openssh.com" {
			own = expandPath
		}
	}
	return own, nameOf(request[0], wire)
}

// changes says that an own request would change something.
func changes(kind byte) bool {
	return kind == fxpRemove || kind == fxpMkdir || kind == fxpRmdir || kind == fxpRename
}

// version is the reply to INIT, with the extensions that are permitted.
func (f *front) version() []byte {
	fields := []any{uint32(protocolVersion)}
	for _, e := range extensions {
		if f.permit.permits(e.name) {
			fields = append(fields, e.wire, e.version)
		}
	}
	return packet(fxpVersion, fields...)
}

// drain waits until the library has answered everything.
func (f *front) drain() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.asked > 0 && f.broken == nil {
		f.idle.Wait()
	}
	return f.broken
}

// Write takes replies from the library, in any pieces, and writes whole ones.
func (f *front) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reply = append(f.reply, b...)
	for len(f.reply) >= 4 && f.broken == nil {
		n := 4 + int(binary.BigEndian.Uint32(f.reply))
		if len(f.reply) < n {
			break
		}
		_, f.broken = f.out.Write(f.reply[:n])
		f.reply = append(f.reply[:0], f.reply[n:]...)
		f.asked--
		f.idle.Broadcast()
	}
	if f.broken != nil {
		f.idle.Broadcast()
		return 0, f.broken
	}
	return len(b), nil
}

// Close is what the library calls when it gives up.
func (f *front) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken == nil {
		f.broken = os.ErrClosed
	}
	f.idle.Broadcast()
	return nil
}

// outcome is the status for what a system call said, as OpenSSH's
// errno_to_portable has it.
func outcome(id uint32, err error) []byte {
	var errno syscall.Errno
	errors.As(err, &errno)
	switch {
	case err == nil:
		return status(id, fxOK, "Success")
	case errno == unix.ENOENT, errno == unix.ENOTDIR, errno == unix.ELOOP:
		return status(id, fxNoSuchFile, "No such file")
	case errno == unix.EACCES, errno == unix.EPERM:
		return status(id, fxPermissionDenied, "Permission denied")
	case errno == unix.EINVAL, errno == unix.ENAMETOOLONG:
		return status(id, fxBadMessage, "Bad message")
	case errno == unix.ENOSYS:
		return status(id, fxUnsupported, "Operation unsupported")
	}
	return status(id, fxFailure, "Failure")
}
