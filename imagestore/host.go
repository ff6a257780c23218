package imagestore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// hostImage makes the image `host` and notices when it must be made again.
//
//	host/lock                    flock(2) of who makes a generation
//	host/current                 record: which generation, from which sources
//	host/HEX-RANDOM/             a generation; HEX is the digest of its content
//
// A generation is void after a boot and then made again, which takes a few
// milliseconds. So nothing here is ever synced, and a login does not wait for
// the gigabytes that an import is just writing.
type hostImage struct {
	root string // where the host's root directory is
	dir  string
	boot string
	log  *slog.Logger

	current atomic.Pointer[hostRecord]
	// mu is held while a generation is made; host/lock is taken inside it.
	mu sync.Mutex
}

// hostRecord describes the newest generation.
type hostRecord struct {
	Boot      string    `json:"boot"`
	ID        Digest    `json:"id"`
	Dir       string    `json:"dir"` // name below host/
	Created   time.Time `json:"created"`
	SizeBytes int64     `json:"size_bytes"`
	// Recursive says that file systems are mounted below /usr.
	Recursive bool `json:"recursive"`
	// Sources are the paths, relative to the host's root, whose lstat(2)
	// decides whether the layer is up to date.
	Sources []string `json:"sources"`
	// Fingerprint is "" if a source changed so shortly before it was read
	// that its time could not tell the next change from that one.
	Fingerprint string `json:"fingerprint"`
}

func newHostImage(root, dir string, log *slog.Logger) (*hostImage, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	return &hostImage{root: root, dir: dir, boot: boot, log: log}, nil
}

// mounts returns the up-to-date generation; in the usual case it costs a few
// hundred lstat(2).
func (h *hostImage) mounts(ctx context.Context) (Mounts, error) {
	rec, err := h.upToDate(ctx)
	if err != nil {
		return Mounts{}, fmt.Errorf("image %q: %w", HostName, err)
	}
	return Mounts{
		ImageID: rec.ID,
		Layers:  []string{filepath.Join(h.dir, rec.Dir)},
		Binds:   []Bind{{Source: filepath.Join(h.root, "usr"), Target: "/usr", Recursive: rec.Recursive}},
	}, nil
}

func (h *hostImage) image(ctx context.Context) (Image, error) {
	rec, err := h.upToDate(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("image %q: %w", HostName, err)
	}
	return Image{Name: HostName, ID: rec.ID, Created: rec.Created, SizeBytes: rec.SizeBytes, Layers: []Digest{rec.ID}}, nil
}

func (h *hostImage) upToDate(ctx context.Context) (*hostRecord, error) {
	if rec := h.current.Load(); h.valid(rec) {
		return rec, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	lockFile, err := lock(ctx, filepath.Join(h.dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer lockFile.Close()
	old := h.load()
	if h.valid(old) { // made by somebody else meanwhile
		h.current.Store(old)
		return old, nil
	}
	rec, err := h.generate(ctx, old)
	if err != nil {
		if old == nil || ctx.Err() != nil {
			return nil, err
		}
		// A full disk must not lock everybody out.
		h.log.Warn("image host is out of date and cannot be made again", "cause", err)
		return old, nil
	}
	h.current.Store(rec)
	return rec, nil
}

// load returns the generation on record, nil if there is none from this boot
// or the record is damaged: it can always be made again.
func (h *hostImage) load() *hostRecord {
	rec := new(hostRecord)
	if err := readRecord(kindHost, h.recordPath(), rec); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			h.log.Warn("image host is made again", "cause", err)
		}
		return nil
	}
	if rec.Boot != h.boot || rec.ID.check() != nil || !strings.HasPrefix(rec.Dir, rec.ID.hex()) ||
		strings.Contains(rec.Dir, "/") || !isDir(filepath.Join(h.dir, rec.Dir)) {
		return nil
	}
	return rec
}

func (h *hostImage) recordPath() string { return filepath.Join(h.dir, "current") }

func (h *hostImage) valid(rec *hostRecord) bool {
	return rec != nil && rec.Fingerprint != "" && isDir(filepath.Join(h.dir, rec.Dir)) &&
		rec.Fingerprint == h.fingerprint(rec.Sources, time.Time{})
}

func isDir(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// generate makes a generation, or finds that old is still right. The caller
// holds mu and the lock.
func (h *hostImage) generate(ctx context.Context, old *hostRecord) (*hostRecord, error) {
	temp, err := os.MkdirTemp(h.dir, tempPrefix)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	began := time.Now()
	layer, err := newHostLayer(ctx, h.root, temp)
	if err != nil {
		return nil, err
	}
	// The fingerprint is of the sources as they are now. Had one changed
	// since it was copied, its time would be so close to now that the
	// fingerprint is "", and the next call makes the layer again.
	rec := &hostRecord{
		Boot:        h.boot,
		ID:          layer.digest(),
		Created:     began.UTC().Truncate(time.Second),
		SizeBytes:   layer.size,
		Recursive:   layer.recursive,
		Sources:     layer.sources,
		Fingerprint: h.fingerprint(layer.sources, began),
	}
	if old != nil && old.ID == rec.ID {
		rec.Dir, rec.Created = old.Dir, old.Created
	} else {
		rec.Dir = rec.ID.hex() + "-" + strings.ToLower(rand.Text()[:8])
		if err := os.Rename(temp, filepath.Join(h.dir, rec.Dir)); err != nil {
			return nil, err
		}
		h.log.Debug("image host made", "id", rec.ID, "took", time.Since(began))
	}
	data, err := encodeRecord(kindHost, rec)
	if err != nil {
		return nil, err
	}
	return rec, replaceFile(h.recordPath(), data, false)
}

// stale returns the directories that are neither the newest generation nor
// one that a start may be about to open.
func (h *hostImage) stale() ([]string, error) {
	rec := h.load()
	if rec == nil || young(filepath.Join(h.dir, rec.Dir)) {
		return nil, nil
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, e := range entries {
		dir := filepath.Join(h.dir, e.Name())
		if e.IsDir() && e.Name() != rec.Dir && !young(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// young says that the directory was filled less than generationGrace ago.
func young(dir string) bool {
	info, err := os.Lstat(dir)
	return err == nil && time.Since(info.ModTime()) < generationGrace
}

const (
	// generationGrace is how long the others stay in place after a new
	// generation: the time a start has to open what Mounts returned.
	generationGrace = 10 * time.Minute
	// clockGrain is more than the resolution of a file's times, which is one
	// timer tick, 10 ms at most, on kernels before 6.13.
	clockGrain = 50 * time.Millisecond
)

// fingerprint condenses the lstat(2) of the sources. It returns "" if one of
// them changed less than clockGrain before notAfter, unless that is zero.
func (h *hostImage) fingerprint(sources []string, notAfter time.Time) string {
	sum := sha256.New()
	// One buffer; a login comes through here.
	buf := make([]byte, 0, 64*len(sources))
	latest := notAfter.Add(-clockGrain)
	for _, rel := range sources {
		path, deviceOnly := strings.CutSuffix(rel, sourceDeviceOnly)
		var st unix.Stat_t
		if err := unix.Lstat(h.root+"/"+path, &st); err != nil {
			buf = append(buf, 0)
			continue
		}
		buf = append(buf, 1)
		buf = binary.NativeEndian.AppendUint64(buf, st.Dev)
		if deviceOnly {
			continue
		}
		if !notAfter.IsZero() && time.Unix(st.Ctim.Unix()).After(latest) {
			return ""
		}
		for _, v := range []int64{int64(st.Ino), int64(st.Mode), st.Size, st.Ctim.Sec, st.Ctim.Nsec} {
			buf = binary.NativeEndian.AppendUint64(buf, uint64(v))
		}
	}
	sum.Write(buf)
	return string(digestOf([sha256.Size]byte(sum.Sum(nil))))
}
