package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotFound is wrapped when no image has the name.
var ErrNotFound = errors.New("no such image")

// Config says where the store is. Dir is required, and for Import UnpackPath
// and WorkerFirstID.
type Config struct {
	// Dir holds everything, for example /var/lib/carrel/images. It is made
	// with mode 0700 if it is missing, and refused if others may enter it:
	// layers hold set-uid files of strangers.
	Dir string
	// UnpackPath is the program carrel-unpack. Everybody must be allowed to
	// execute the file; the directories above it do not matter.
	UnpackPath string
	// WorkerFirstID is the first of the 65536 host ids, user and group,
	// that the unpack worker's user namespace maps. They must belong to
	// nobody else. Zero refuses to import.
	WorkerFirstID uint32
	// HostRoot is the directory that the image `host` is made from; "" is "/".
	HostRoot string
	// Logger gets what no caller is told; nil discards it.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.HostRoot == "" {
		c.HostRoot = "/"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// An Image is one name in the store.
type Image struct {
	Name string `json:"name"` // short form: the tag "latest" is left out
	// ID changes when and only when the content does. It is the digest of
	// the image's OCI configuration, or for `host` of the generated layer.
	ID        Digest    `json:"id"`
	Created   time.Time `json:"created"`    // when it came into this store, UTC
	SizeBytes int64     `json:"size_bytes"` // of the files in all layers, uncompressed
	Layers    []Digest  `json:"layers"`     // chain ids, bottom first
}

// Mounts is what a container's root file system is made of.
type Mounts struct {
	ImageID Digest
	// Layers are absolute paths of directories, top first, with ids that are
	// not shifted (0 to 65535). They stay whole while a mount of them exists,
	// see Collect, but may be renamed: open them soon.
	Layers []string
	// Binds go on top of the layers, read-only.
	Binds []Bind
}

// A Bind is a directory of the host that the caller id-maps and attaches
// read-only at Target, which exists in one of the layers.
type Bind struct {
	Source, Target string
	// Recursive says that other file systems are mounted below Source and
	// are part of it.
	Recursive bool
}

// A Store is a directory of images. Its methods may be called concurrently,
// and several processes may have the same directory open.
type Store struct {
	cfg  Config
	log  *slog.Logger
	host *hostImage
	// step is called between the steps of a commit; tests stop there.
	step func(name string)
}

// The directories of a store.
const (
	dirRefs      = "refs"      // records that give a name to an image
	dirLayerInfo = "layerinfo" // records of layers
	dirLayers    = "layers"    // unpacked trees by chain id
	dirBlobs     = "blobs/sha256"
	dirHost      = "host"    // generations of the image `host`
	dirStaging   = "staging" // imports under way, each locked by its importer
	dirTrash     = "trash"   // what no record names any more
	fileVersion  = "version"
	fileLock     = "lock"
)

// Open returns the store in cfg.Dir, made if it is missing. It removes what
// interrupted imports left, unless another process is writing just now.
func Open(cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("image store %q: path is not absolute", cfg.Dir)
	}
	s := &Store{cfg: cfg, log: cfg.Logger, step: func(string) {}}
	if err := s.makeDirs(); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	if err := s.checkVersion(); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	host, err := newHostImage(cfg.HostRoot, s.path(dirHost), s.log)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	s.host = host
	if err := s.clean(); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	return s, nil
}

// path returns the absolute path of a part of the store.
func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, elem...)...)
}

func (s *Store) makeDirs() error {
	if err := os.MkdirAll(filepath.Dir(s.cfg.Dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(s.cfg.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(s.cfg.Dir, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: s.cfg.Dir, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%q is not a directory", s.cfg.Dir)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%q belongs to uid %d, not to %d", s.cfg.Dir, st.Uid, os.Geteuid())
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%q has mode %04o, others may enter: chmod 0700", s.cfg.Dir, st.Mode&0o7777)
	}
	for _, dir := range []string{dirRefs, dirLayerInfo, dirLayers, dirBlobs, dirHost, dirStaging, dirTrash} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// storeVersion is the body of the version record.
type storeVersion struct {
	Layout int `json:"layout"`
}

// layoutVersion only goes up.
const layoutVersion = 1

func (s *Store) checkVersion() error {
	var v storeVersion
	err := readRecord(kindStore, s.path(fileVersion), &v)
	if errors.Is(err, fs.ErrNotExist) {
		return writeRecord(kindStore, s.path(fileVersion), storeVersion{layoutVersion})
	}
	if err == nil && v.Layout != layoutVersion {
		err = fmt.Errorf("layout version %d, this program knows %d", v.Layout, layoutVersion)
	}
	return err
}

// Mounts returns what the root file system of the named image is made of. It
// waits for nobody; an image that is imported or removed meanwhile is the old
// one or the new one, or gone.
func (s *Store) Mounts(ctx context.Context, name string) (Mounts, error) {
	ref, err := parseName(name)
	if err != nil {
		return Mounts{}, err
	}
	if ref.isHost() {
		return s.host.mounts(ctx)
	}
	rec, err := s.readRef(ref)
	if err != nil {
		return Mounts{}, err
	}
	m := Mounts{ImageID: rec.ID}
	for i := len(rec.Layers) - 1; i >= 0; i-- {
		dir := s.path(dirLayers, rec.Layers[i].hex())
		var st unix.Stat_t
		if err := unix.Lstat(dir, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return Mounts{}, fmt.Errorf("image %q: layer %s is missing: import it again", ref, rec.Layers[i])
		}
		m.Layers = append(m.Layers, dir)
	}
	return m, nil
}
