package sftpd

import (
	"encoding/binary"
	"errors"
)

// The numbers are those of draft-ietf-secsh-filexfer-02, section 3 and 7.
const (
	fxpInit     = 1
	fxpVersion  = 2
	fxpRemove   = 13
	fxpMkdir    = 14
	fxpRmdir    = 15
	fxpRealpath = 16
	fxpRename   = 18
	fxpStatus   = 101
	fxpName     = 104
	fxpExtended = 200

	fxOK               = 0
	fxNoSuchFile       = 2
	fxPermissionDenied = 3
	fxFailure          = 4
	fxBadMessage       = 5
	fxUnsupported      = 8

	attrSize        = 1 << 0
	attrUIDGID      = 1 << 1
	attrPermissions = 1 << 2

	protocolVersion = 3
)

// maxPacket is OpenSSH's limit and the library's.
const maxPacket = 256 << 10

var errMalformed = errors.New("malformed request")

// A reader takes a packet apart. After the first field that is not there all
// are zero and bad is set.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n uint32) []byte {
	if r.bad || uint64(n) > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) text() string { return string(r.take(r.uint32())) }

// mode reads ATTRS as far as the permissions, or returns absent.
func (r *reader) mode(absent uint32) uint32 {
	flags := r.uint32()
	if flags&attrSize != 0 {
		r.take(8)
	}
	if flags&attrUIDGID != 0 {
		r.take(8)
	}
	if flags&attrPermissions != 0 {
		return r.uint32() & 0o7777
	}
	return absent
}

// packet puts one together: kind, and fields that are uint32 or string.
func packet(kind byte, fields ...any) []byte {
	b := []byte{0, 0, 0, 0, kind}
	for _, field := range fields {
		switch v := field.(type) {
		case uint32:
			b = binary.BigEndian.AppendUint32(b, v)
		case string:
			b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
		default:
			panic("BUG: a field is neither uint32 nor string")
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func status(id uint32, code uint32, why string) []byte {
	return packet(fxpStatus, id, code, why, "")
}
