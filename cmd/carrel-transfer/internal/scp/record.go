package scp

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// A protocolError is what no client does by accident; it ends the transfer.
type protocolError string

func (e protocolError) Error() string { return "protocol error: " + string(e) }

// A record is a C, D, E or T line, checked: name is one component.
type record struct {
	kind         byte   // 'C', 'D', 'E' or 'T'
	mode         uint32 // permissions, at most 07777
	size         int64  // bytes
	name         string
	mtime, atime time.Time
}

// parseRecord takes a line without its newline.
func parseRecord(unsafeLine []byte) (record, error) {
	if len(unsafeLine) == 0 {
		return record{}, protocolError("unexpected <newline>")
	}
	r := record{kind: unsafeLine[0]}
	rest := unsafeLine[1:]
	var err error
	switch r.kind {
	case 'E':
		// OpenSSH looks at the first byte only.
	case 'T':
		r.mtime, r.atime, err = parseTimes(string(rest))
	case 'C', 'D':
		err = r.parseEntry(rest)
	default:
		err = protocolError("expected control record")
	}
	return r, err
}

// parseEntry takes "MMMM SIZE NAME".
func (r *record) parseEntry(unsafeRest []byte) error {
	mode, rest, ok := bytes.Cut(unsafeRest, []byte(" "))
	if !ok || len(mode) != 4 {
		return protocolError("mode not delimited")
	}
	bits, err := strconv.ParseUint(string(mode), 8, 12)
	if err != nil {
		return protocolError("bad mode")
	}
	size, name, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return protocolError("size not delimited")
	}
	r.size, err = parseNumber(string(size))
	if err != nil {
		return protocolError("bad size")
	}
	r.mode, r.name = uint32(bits), string(name)
	return checkName(r.name)
}

// checkName refuses what could mean another place than an entry of the target
// directory. It is what keeps a client below the target (CVE-2018-20685: "." and
// "" change the target's own mode; CVE-2019-6111).
func checkName(unsafeName string) error {
	switch {
	case unsafeName == "" || unsafeName == "." || unsafeName == "..",
		bytes.ContainsAny([]byte(unsafeName), "/\x00\n"):
		return fmt.Errorf("unexpected filename: %q", unsafeName)
	}
	return nil
}

// parseTimes takes "MSEC MUSEC ASEC AUSEC".
func parseTimes(unsafeText string) (mtime, atime time.Time, err error) {
	fields := bytes.Split([]byte(unsafeText), []byte(" "))
	if len(fields) != 4 {
		return mtime, atime, protocolError("times not delimited")
	}
	var n [4]int64
	for i, field := range fields {
		n[i], err = parseNumber(string(field))
		if err != nil || i%2 == 1 && n[i] > 999_999 {
			return mtime, atime, protocolError("bad time")
		}
	}
	return time.Unix(n[0], n[1]*1000), time.Unix(n[2], n[3]*1000), nil
}

// parseNumber takes decimal digits and nothing else: no sign, no underscore.
func parseNumber(unsafeText string) (int64, error) {
	n, err := strconv.ParseUint(unsafeText, 10, 63)
	return int64(n), err
}
