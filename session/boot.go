package session

// A Boot is what carrel-init needs to know before it serves its first
// session. It comes through a pipe that carrel-runtime filled.
type Boot struct {
	// CgroupMode is 1 or 2 for the version that the inherited directories
	// belong to, 0 if there are none and sessions get no leaf.
	CgroupMode uint8
	Boxes      uint8 // number of those directories
	Hostname   string
	// Passwd is the user's line of /etc/passwd; Groups are lines of
	// /etc/group with the user as their only member. Both without newline.
	// They replace lines of the same name or id in the image's files.
	Passwd string
	Groups []string
	// Seccomp is the filter that every process of the container runs under:
	// an array of struct sock_filter in the machine's byte order. Empty means
	// no filter.
	Seccomp []byte
}

// Encode returns the frame, ErrFrame if it is over a bound.
func (b *Boot) Encode() ([]byte, error) {
	e := newEncoder(KindBoot, 1024+len(b.Seccomp))
	e.u8(b.CgroupMode)
	e.u8(b.Boxes)
	e.str(b.Hostname)
	e.str(b.Passwd)
	e.strs(b.Groups)
	e.str(string(b.Seccomp))
	if len(e.b) > MaxFrame || len(b.Seccomp) > maxBlob {
		return nil, ErrFrame
	}
	return e.b, nil
}

// DecodeBoot takes a Boot.
func DecodeBoot(frame []byte) (*Boot, error) {
	d := newDecoder(frame, KindBoot)
	b := &Boot{
		CgroupMode: d.u8(), Boxes: d.u8(), Hostname: d.str(), Passwd: d.str(),
		Groups: d.strs(1024), Seccomp: d.blob(maxBlob),
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return b, nil
}
