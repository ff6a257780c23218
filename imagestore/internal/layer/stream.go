package layer

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxWindow is what zstd(1) accepts without --long=28 or more; 8 MiB is
	// what RFC 8878, 3.1.1.1.2, asks of everybody.
	maxWindow = 128 << 20
	// Past this many bytes, an archive that expands more than maxRatio
	// times is taken for a bomb. Root file systems shrink 2 to 10 times;
	// gzip can reach 1032.
	defaultRatioFloor = 1 << 30
	maxRatio          = 200
)

// errTruncated says that the archive ends too early.
var errTruncated = errors.New("the archive is truncated")

// magics are the first bytes of compressed archives.
var magics = []struct {
	name  string
	magic []byte
	open  func(io.Reader) (io.Reader, error) // nil: refused
}{
	{"gzip", []byte{0x1f, 0x8b}, openGzip},
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}, openZstd},
	{"xz", []byte{0xfd, '7', 'z', 'X', 'Z', 0}, nil},
	{"bzip2", []byte("BZh"), nil},
	{"zip", []byte("PK\x03\x04"), nil},
}

func openGzip(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }

func openZstd(r io.Reader) (io.Reader, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderMaxMemory(2*maxWindow))
}

// stream is the uncompressed archive, hashed and bounded while it is read.
type stream struct {
	r     io.Reader
	in    *counter
	sum   hash.Hash
	total int64 // bytes read
	limit int64
	floor int64 // from here on the expansion is looked at
	zeros int64 // NUL bytes at the end of what was read so far
	// tick is called about every tickBytes.
	tick   func() error
	ticked int64
}

const tickBytes = 1 << 20

// counter counts the compressed bytes.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// openStream recognises the compression by the first bytes.
func openStream(r io.Reader, opt Options, tick func() error) (*stream, error) {
	in := &counter{r: r}
	s := &stream{in: in, sum: sha256.New(), limit: opt.MaxBytes, floor: cmp.Or(opt.ratioFloor, defaultRatioFloor), tick: tick}
	buffered := bufio.NewReaderSize(in, 64<<10)
	head, err := buffered.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(head) == 0 {
		return nil, errors.New("the archive is empty")
	}
	s.r = buffered
	for _, m := range magics {
		if !isMagic(head, m.magic) {
			continue
		}
		if m.open == nil {
			return nil, fmt.Errorf("%s is not supported; compress with gzip or zstd", m.name)
		}
		if s.r, err = m.open(buffered); err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, unexpected(err))
		}
	}
	return s, nil
}

// isMagic also knows a skippable frame of zstd, 0x184D2A5?, which may come
// first (RFC 8878, 3.1.2).
func isMagic(head, magic []byte) bool {
	if len(magic) == 4 && magic[0] == 0x28 && len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}) {
		return true
	}
	return bytes.HasPrefix(head, magic)
}

// unexpected makes an early end readable.
func unexpected(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errTruncated
	}
	return err
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum.Write(p[:n])
	s.countZeros(p[:n])
	s.total += int64(n)
	if s.total > s.limit {
		return n, fmt.Errorf("the archive has more than %d bytes uncompressed", s.limit)
	}
	if err := s.checkRatio(s.total); err != nil {
		return n, err
	}
	if s.total-s.ticked >= tickBytes {
		s.ticked = s.total
		if err := s.tick(); err != nil {
			return n, err
		}
	}
	return n, err
}

// checkRatio refuses that the archive became more than size bytes.
func (s *stream) checkRatio(size int64) error {
	if size > s.floor && size/maxRatio > s.in.n {
		return fmt.Errorf("the archive expands more than %d times", maxRatio)
	}
	return nil
}

func (s *stream) countZeros(p []byte) {
	trimmed := bytes.TrimRight(p, "\x00")
	if len(trimmed) > 0 {
		s.zeros = 0
	}
	s.zeros += int64(len(p) - len(trimmed))
}

// blockSize is that of tar; two zero blocks end an archive (POSIX.1, pax).
const blockSize = 512

// finish reads what follows the archive's end, which must be nothing but
// zeros, so that all readers of the archive see the same entries. It returns
// the digest of everything.
func (s *stream) finish() (diffID [sha256.Size]byte, err error) {
	if s.zeros < blockSize {
		return diffID, fmt.Errorf("%w: its end mark is missing", errTruncated)
	}
	buf := make([]byte, 32<<10)
	for {
		before := s.zeros
		n, err := s.Read(buf)
		if s.zeros-before != int64(n) {
			return diffID, errors.New("there is data behind the end of the archive")
		}
		if errors.Is(err, io.EOF) {
			return [sha256.Size]byte(s.sum.Sum(nil)), nil
		}
		if err != nil {
			return diffID, unexpected(err)
		}
	}
}
