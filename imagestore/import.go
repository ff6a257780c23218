package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/carrel-sh/carrel/imagestore/internal/launch"
	"github.com/carrel-sh/carrel/imagestore/internal/wire"
	"github.com/carrel-sh/carrel/internal/durable"
)

// ImportOptions bound an import and watch it. The zero value is good.
type ImportOptions struct {
	// Progress is called every now and then, never concurrently with
	// itself. It must not block for long.
	Progress func(Progress)
	// MaxBytes bounds the archive uncompressed, and the files in it; 0 is
	// 32 GiB.
	MaxBytes int64
	// MaxEntries bounds the number of files, directories and links; 0 is
	// two million.
	MaxEntries int64
}

// Progress is how far an import is.
type Progress struct {
	BytesRead int64 // of the archive as it is, compressed or not
	Entries   int64 // applied so far
	Devices   int64 // device nodes left out, as far as they were told
}

func (o ImportOptions) withDefaults() ImportOptions {
	if o.MaxBytes == 0 {
		o.MaxBytes = 32 << 30
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = 2_000_000
	}
	return o
}

// maxOpaque bounds what a worker can make its parent remember, as does the
// length of a path.
const maxOpaque = 1 << 16

// Import reads a root file system as a tar archive, plain or compressed with
// gzip or zstd, and gives it the name, which loses the image it had before.
// Device nodes in it are left out, since the sandbox brings its own.
//
// Either all of it happens, or nothing: after an error, or when ctx is done,
// the name means what it meant before. Then a Read of r may still be in
// progress, and its result is dropped.
func (s *Store) Import(ctx context.Context, name string, r io.Reader, opt ImportOptions) (Image, error) {
	ref, err := parseName(name)
	if err != nil {
		return Image{}, err
	}
	if ref.isHost() {
		return Image{}, fmt.Errorf("image %q is built in and cannot be imported", ref)
	}
	image, err := s.importRef(ctx, ref, r, opt.withDefaults())
	if err != nil {
		return Image{}, fmt.Errorf("import image %q: %w", ref, err)
	}
	return image, nil
}

func (s *Store) importRef(ctx context.Context, ref reference, r io.Reader, opt ImportOptions) (Image, error) {
	if s.cfg.WorkerFirstID == 0 || s.cfg.WorkerFirstID > math.MaxInt32-launch.IDs {
		return Image{}, fmt.Errorf("no ids for the worker: first id is %d", s.cfg.WorkerFirstID)
	}
	if opt.MaxBytes < 0 || opt.MaxEntries < 0 {
		return Image{}, errors.New("bounds are negative")
	}
	st, err := s.newStaging(ctx)
	if err != nil {
		return Image{}, err
	}
	defer st.remove()
	s.step("staged")
	res, opaque, err := s.unpack(ctx, st, r, opt)
	if err != nil {
		return Image{}, err
	}
	s.step("unpacked")
	if err := st.markOpaque(opaque); err != nil {
		return Image{}, err
	}
	if res.Devices > 0 || res.DroppedXattrs > 0 {
		s.log.Info("left out of an image", "image", ref.String(), "devices", res.Devices, "xattrs", res.DroppedXattrs)
	}
	// Before the lock is taken: this takes as long as the disk takes.
	if err := syncFS(st.root); err != nil {
		return Image{}, err
	}
	s.step("synced")
	return s.commit(ctx, ref, st, res)
}

// unpack runs the worker. It returns what the worker claims.
func (s *Store) unpack(ctx context.Context, st *staging, r io.Reader, opt ImportOptions) (wire.Result, []string, error) {
	var (
		mu     sync.Mutex // guards now
		now    Progress
		opaque []string
	)
	report := func(update func()) {
		mu.Lock()
		defer mu.Unlock()
		update()
		if opt.Progress != nil {
			opt.Progress(now)
		}
	}
	w := launch.Worker{
		Path:    s.cfg.UnpackPath,
		Args:    []string{fmt.Sprintf("-max-bytes=%d", opt.MaxBytes), fmt.Sprintf("-max-entries=%d", opt.MaxEntries)},
		FirstID: s.cfg.WorkerFirstID,
		Logger:  s.log,
		Read:    func(total int64) { report(func() { now.BytesRead = total }) },
	}
	res, err := w.Run(ctx, st.root, r, func(rec wire.Record) error {
		switch rec.Kind {
		case wire.KindProgress:
			report(func() { now.Entries = rec.Entries })
		case wire.KindDevice:
			report(func() { now.Devices++ })
			s.log.Debug("device node left out", "entry", rec.Path)
		case wire.KindOpaque:
			if len(opaque) == maxOpaque {
				return fmt.Errorf("more than %d opaque directories", maxOpaque)
			}
			opaque = append(opaque, rec.Path)
		}
		return nil
	})
	if err == nil {
		report(func() { now.Entries, now.Devices = res.Entries, res.Devices })
	}
	return res, opaque, err
}

// layerRecord says that a layer is whole, and what it was made from.
type layerRecord struct {
	ChainID   Digest `json:"chain_id"`
	DiffID    Digest `json:"diff_id"`
	Parent    Digest `json:"parent,omitempty"`
	SizeBytes int64  `json:"size_bytes"`
	Entries   int64  `json:"entries"`
}

// imageConfig is the part of an OCI image configuration (config.md) that a
// root file system has. It has no time in it, so that the same archive has
// the same ID.
type imageConfig struct {
	Architecture string       `json:"architecture"`
	OS           string       `json:"os"`
	Config       struct{}     `json:"config"`
	RootFS       configRootFS `json:"rootfs"`
}

type configRootFS struct {
	Type    string   `json:"type"`
	DiffIDs []Digest `json:"diff_ids"`
}

// commit makes an unpacked and synced tree an image.
func (s *Store) commit(ctx context.Context, ref reference, st *staging, res wire.Result) (Image, error) {
	diffID := digestOf(res.DiffID)
	layer := layerRecord{ChainID: chainID("", diffID), DiffID: diffID, SizeBytes: res.SizeBytes, Entries: res.Entries}
	config, err := json.Marshal(imageConfig{
		Architecture: runtime.GOARCH, OS: "linux", RootFS: configRootFS{Type: "layers", DiffIDs: []Digest{diffID}},
	})
	if err != nil {
		return Image{}, err
	}
	rec := refRecord{
		Name: ref.String(), ID: digestBytes(config), Created: time.Now().UTC().Truncate(time.Second),
		SizeBytes: layer.SizeBytes, Layers: []Digest{layer.ChainID},
	}
	lockFile, err := lock(ctx, s.path(fileLock))
	if err != nil {
		return Image{}, err
	}
	err = s.commitLocked(ref, st, layer, config, rec)
	lockFile.Close()
	if err != nil {
		return Image{}, err
	}
	if err := s.emptyTrash(isDead); err != nil {
		s.log.Warn("trash is not empty", "cause", err)
	}
	return rec.image(), nil
}

// commitLocked does the steps in the order of doc.go. The caller has the
// writer lock.
func (s *Store) commitLocked(ref reference, st *staging, layer layerRecord, config []byte, rec refRecord) (err error) {
	dir := s.path(dirLayers, layer.ChainID.hex())
	placed, err := s.placeLayer(st, dir, layer)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil || !placed {
			return
		}
		// The last error may come after the name was given.
		if now, readErr := s.readRef(ref); readErr != nil || now.ID != rec.ID {
			err = errors.Join(err, s.discard(dir))
		}
	}()
	if err := writeRecord(kindLayer, s.path(dirLayerInfo, layer.ChainID.hex()), layer); err != nil {
		return err
	}
	s.step("layer recorded")
	if err := writeFileSync(s.path(dirBlobs, rec.ID.hex()), config); err != nil {
		return err
	}
	s.step("config written")
	if err := writeRecord(kindRef, s.path(dirRefs, ref.fileName()), rec); err != nil {
		return err
	}
	s.step("named")
	if err := s.sweep(); err != nil { // what the name meant before
		s.log.Warn("layers are not swept", "cause", err)
	}
	return nil
}

// placeLayer renames the tree to where layers are, unless the same layer is
// there and whole.
func (s *Store) placeLayer(st *staging, dir string, layer layerRecord) (bool, error) {
	var old layerRecord
	err := readRecord(kindLayer, s.path(dirLayerInfo, layer.ChainID.hex()), &old)
	if err == nil && old == layer && isDir(dir) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("layer is replaced", "layer", layer.ChainID, "cause", err)
	}
	if err := s.retire(dir); err != nil { // not whole, but maybe mounted
		return false, err
	}
	if err := os.Rename(st.root, dir); err != nil {
		return false, err
	}
	s.step("renamed")
	return true, durable.SyncDir(s.path(dirLayers))
}
