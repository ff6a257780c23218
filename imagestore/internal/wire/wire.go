// Package wire is what carrel-unpack tells its parent, over a pipe, in one
// direction:
//
//	carrel-unpack                                     parent
//	     │  Progress │ Opaque │ Device     any number   │
//	     ├──────────────────────────────────────────────▶
//	     │  Done │ Failed                   exactly one │
//	     ├──────────────────────────────────────────────▶
//	     │  end of file                                 │
//
// A record is
//
//	 0      1               3                      3+length
//	 ┌──────┬───────────────┬──────────────────────┐
//	 │ kind │ length, be16  │ payload              │
//	 └──────┴───────────────┴──────────────────────┘
//
//	Progress  'P'  entries uint64
//	Opaque    'O'  path of a directory, 0 to 4095 bytes; empty is the root
//	Device    'D'  path of a device node that was left out
//	Done      'R'  diffID [32]byte, then uint64: size, entries, devices, dropped xattrs
//	Failed    'F'  a sentence, 1 to 4096 bytes
//
// The parent is root and the worker may have been taken over by the archive:
// the Decoder accepts nothing else than the above, and what it returns is
// claimed, not true. Integers are big-endian.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A Kind is the first byte of a record.
type Kind byte

// The kinds of records.
const (
	KindProgress Kind = 'P'
	KindOpaque   Kind = 'O'
	KindDevice   Kind = 'D'
	KindDone     Kind = 'R'
	KindFailed   Kind = 'F'
)

const (
	headSize = 3
	maxPath  = 4095 // PATH_MAX without its NUL
	maxText  = 4096
	sumSize  = 32
	doneSize = sumSize + 4*8
)

// A Result is what became of the archive.
type Result struct {
	DiffID        [sumSize]byte // SHA-256 of the uncompressed archive
	SizeBytes     int64         // of the regular files
	Entries       int64
	Devices       int64 // device nodes, which are left out
	DroppedXattrs int64 // extended attributes that are not for layers
}

// A Record is one message. Which fields count depends on Kind.
type Record struct {
	Kind    Kind
	Entries int64  // KindProgress
	Path    string // KindOpaque, KindDevice: claimed
	Result  Result // KindDone
	Text    string // KindFailed: claimed
}

// Append appends the encoded record to buf. Paths and texts that are too long
// are cut, as only the message of a broken archive can have them.
func Append(buf []byte, rec Record) []byte {
	payload := make([]byte, 0, doneSize)
	switch rec.Kind {
	case KindProgress:
		payload = binary.BigEndian.AppendUint64(payload, uint64(rec.Entries))
	case KindOpaque, KindDevice:
		payload = append(payload, rec.Path[:min(len(rec.Path), maxPath)]...)
	case KindDone:
		r := rec.Result
		payload = append(payload, r.DiffID[:]...)
		for _, n := range []int64{r.SizeBytes, r.Entries, r.Devices, r.DroppedXattrs} {
			payload = binary.BigEndian.AppendUint64(payload, uint64(n))
		}
	case KindFailed:
		payload = append(payload, rec.Text[:min(len(rec.Text), maxText)]...)
	default:
		panic("BUG: wire: record of unknown kind")
	}
	buf = append(buf, byte(rec.Kind))
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(payload)))
	return append(buf, payload...)
}

// A Decoder reads records strictly.
type Decoder struct {
	r    *bufio.Reader
	last bool // Done or Failed was read
}

// NewDecoder returns a Decoder that reads from r.
func NewDecoder(r io.Reader) *Decoder { return &Decoder{r: bufio.NewReader(r)} }

// errViolation says that the peer does not speak this protocol.
var errViolation = errors.New("protocol violation")

// Next returns the next record. After the last one it returns io.EOF; if the
// records end without a last one, io.ErrUnexpectedEOF.
func (d *Decoder) Next() (Record, error) {
	var head [headSize]byte
	_, err := io.ReadFull(d.r, head[:])
	switch {
	case err == io.EOF && !d.last:
		return Record{}, io.ErrUnexpectedEOF
	case err != nil:
		return Record{}, err
	case d.last:
		return Record{}, fmt.Errorf("%w: record after the last", errViolation)
	}
	kind, size := Kind(head[0]), int(binary.BigEndian.Uint16(head[1:]))
	if low, high := bounds(kind); size < low || size > high {
		return Record{}, fmt.Errorf("%w: kind %q with %d bytes", errViolation, kind, size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(d.r, payload); err != nil {
		return Record{}, io.ErrUnexpectedEOF
	}
	return d.decode(kind, payload)
}

// bounds returns the least and most bytes of a payload; for an unknown kind,
// none fits.
func bounds(kind Kind) (low, high int) {
	switch kind {
	case KindProgress:
		return 8, 8
	case KindOpaque, KindDevice:
		return 0, maxPath
	case KindDone:
		return doneSize, doneSize
	case KindFailed:
		return 1, maxText
	}
	return 1, 0
}

// decode decodes a payload of a size that fits the kind.
func (d *Decoder) decode(kind Kind, payload []byte) (Record, error) {
	rec := Record{Kind: kind}
	var err error
	switch kind {
	case KindProgress:
		rec.Entries, err = count(payload)
	case KindOpaque, KindDevice:
		rec.Path = string(payload)
	case KindFailed:
		rec.Text, d.last = string(payload), true
	case KindDone:
		d.last = true
		copy(rec.Result.DiffID[:], payload)
		for i, to := range []*int64{&rec.Result.SizeBytes, &rec.Result.Entries, &rec.Result.Devices, &rec.Result.DroppedXattrs} {
			n, countErr := count(payload[sumSize+8*i:])
			*to, err = n, errors.Join(err, countErr)
		}
	}
	return rec, err
}

// count decodes a number that is not negative as an int64.
func count(payload []byte) (int64, error) {
	n := binary.BigEndian.Uint64(payload)
	if int64(n) < 0 {
		return 0, fmt.Errorf("%w: count %d", errViolation, n)
	}
	return int64(n), nil
}
