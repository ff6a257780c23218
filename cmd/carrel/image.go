package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/imagestore"
)

// images holds the commands about images. They work on the store themselves,
// beside carreld; it need not run.
func (a *app) images() *cobra.Command {
	return group("image", "Manage images (root)", a.imageImport(), a.imageList(), a.imageRemove())
}

// store opens the image store. The worker gets the first block of Carrel's
// ids, which carreld gives to no user.
func (a *app) store() (*imagestore.Store, error) {
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	loaded, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	return imagestore.Open(imagestore.Config{
		Dir:           filepath.Join(a.stateDir, "images"),
		UnpackPath:    filepath.Join(beside(a.libexecDir, "../libexec/carrel"), "carrel-unpack"),
		WorkerFirstID: loaded.IDs.First,
		Logger:        slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

func (a *app) imageList() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "ls",
		Short: "List the images",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			store, err := a.store()
			if err != nil {
				return err
			}
			// Some images may be listed although others are damaged.
			list, err := store.List(c.Context())
			if a.asJSON {
				return errors.Join(writeJSON(a.stdout, append([]imagestore.Image{}, list...)), err)
			}
			return errors.Join(imageGrid(list).write(a.stdout), err)
		},
	})
}

func imageGrid(list []imagestore.Image) *grid {
	g := newGrid("NAME", "ID", "CREATED", "SIZE", "LAYERS")
	for _, image := range list {
		g.add(image.Name, shortID(image.ID), image.Created.Format("2006-01-02 15:04Z07:00"), size(image.SizeBytes), strconv.Itoa(len(image.Layers)))
	}
	return g
}

// shortID is enough of a digest for people to tell images apart.
func shortID(d imagestore.Digest) string {
	_, digits, _ := strings.Cut(string(d), ":")
	return digits[:min(12, len(digits))]
}

func (a *app) imageRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove images",
		Long: `Remove images, and the layers that no other image has. Containers that run on
them keep what they need until they stop.`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.imageNames(c.Context()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.store()
			if err != nil {
				return err
			}
			var failed []error
			for _, name := range args {
				failed = append(failed, store.Remove(c.Context(), name))
			}
			return errors.Join(failed...)
		},
	}
}

// imageNames returns the images that can be removed, if we may know them.
func (a *app) imageNames(ctx context.Context) []string {
	store, err := a.store()
	if err != nil {
		return nil
	}
	list, _ := store.List(ctx) // damaged images are not offered
	var names []string
	for _, image := range list {
		if image.Name != imagestore.HostName {
			names = append(names, clean(image.Name))
		}
	}
	return names
}

func (a *app) imageImport() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "import NAME FILE|-",
		Short: "Make an image of a root file system in a tar archive",
		Long: `Make an image of a root file system in a tar archive, plain or compressed with
gzip or zstd, from a file or from standard input. An image of that name is
replaced; containers that run on it keep it until they stop. The archive is
unpacked by an unprivileged process. Device nodes are left out.

Either all of it happens, or nothing. An import can be interrupted at any time.`,
		Example: `  carrel image import debian:12 debian-12.tar.zst
  mmdebstrap bookworm - | carrel image import debian:12 -`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.store()
			if err != nil {
				return err
			}
			archive, total, err := a.openArchive(args[1])
			if err != nil {
				return err
			}
			defer archive.Close()
			bar := newProgressBar(a.stderr, total)
			image, err := store.Import(c.Context(), args[0], archive, imagestore.ImportOptions{Progress: bar.show})
			bar.clear()
			if err != nil {
				return err
			}
			if n := bar.last.Devices; n > 0 {
				fmt.Fprintf(a.stderr, "carrel: left out %d device nodes; each container has a /dev of its own\n", n)
			}
			if a.asJSON {
				return writeJSON(a.stdout, image)
			}
			return imageGrid([]imagestore.Image{image}).write(a.stdout)
		},
	})
}

// openArchive returns the archive and its size, 0 when that is not known.
func (a *app) openArchive(file string) (io.ReadCloser, int64, error) {
	if file == "-" {
		if isTerminal(a.stdin) {
			return nil, 0, &statusError{exitUsage, errors.New("image import: standard input is a terminal, not an archive")}
		}
		return io.NopCloser(a.stdin), 0, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = fmt.Errorf("%q is a directory; pack it first: tar -C %q -c . | carrel image import NAME -", file, file)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return f, 0, nil
	}
	return f, st.Size(), nil
}

// isTerminal reports whether stream is an open terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// A progressBar is one line on a terminal that is drawn over and over. On
// anything else than a terminal it only counts.
type progressBar struct {
	w     io.Writer // nil: draw nothing
	total int64     // bytes; 0: not known
	last  imagestore.Progress
	drawn time.Time
	width int // of what stands there
}

const (
	barWidth    = 30
	barInterval = 100 * time.Millisecond
)

func newProgressBar(w io.Writer, total int64) *progressBar {
	if !isTerminal(w) {
		w = nil
	}
	return &progressBar{w: w, total: total}
}

// show takes the progress and draws, not too often.
func (b *progressBar) show(p imagestore.Progress) {
	b.last = p
	if now := time.Now(); b.w != nil && now.Sub(b.drawn) >= barInterval {
		b.drawn = now
		b.draw(b.line())
	}
}

// line returns the text for the last progress.
func (b *progressBar) line() string {
	counts := fmt.Sprintf("%s, %d files", size(b.last.BytesRead), b.last.Entries)
	if b.total <= 0 {
		return counts
	}
	done := min(float64(b.last.BytesRead)/float64(b.total), 1)
	full := int(done * barWidth)
	return fmt.Sprintf("[%s%s] %3.0f%%  %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), done*100, counts)
}

// draw replaces what stands there, with spaces after it: no escape sequence
// is needed.
func (b *progressBar) draw(line string) {
	fmt.Fprintf(b.w, "\r%-*s\r%s", b.width, "", line)
	b.width = len(line)
}

// clear takes the line away.
func (b *progressBar) clear() {
	if b.w != nil && b.width > 0 {
		b.draw("")
	}
}
