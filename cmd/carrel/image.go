package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/imagestore"
)

// images holds the commands about images. They work on the store themselves,
// beside carreld; it need not run.
func (a *app) images() *cobra.Command {
	return group("image", "Manage images (root)", a.imageList(), a.imageRemove())
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
