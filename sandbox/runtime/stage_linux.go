package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/idmap"
	"github.com/carrel-sh/carrel/sandbox/spec"
)

// maxLayers is what lowerdir+ of fsconfig(2) was seen to take; see
// OVL_MAX_STACK in fs/overlayfs/ovl_entry.h (500) and the page-sized option
// string of older kernels.
const maxLayers = 127

// stage puts up the mounts of c in the caller's own mount namespace.
func stage(c *spec.Create) error {
	if n := len(c.Root.Layers); n == 0 || n > maxLayers {
		return fmt.Errorf("image has %d layers; 1 to %d can be mounted", n, maxLayers)
	}
	if err := unix.Mount("carrel", c.StageDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: c.StageDir, Err: err}
	}
	userns, err := idmap.Namespace(c.UIDMap, c.GIDMap)
	if err != nil {
		return err
	}
	defer userns.Close()
	for i, layer := range c.Root.Layers {
		if err := put(layer, filepath.Join(c.StageDir, strconv.Itoa(i)), userns, unix.MOUNT_ATTR_RDONLY, false); err != nil {
			return err
		}
	}
	for i, bind := range c.Root.Binds {
		if err := put(bind.Source, bindStage(c, i), userns, unix.MOUNT_ATTR_RDONLY|plain, bind.Recursive); err != nil {
			return err
		}
	}
	if c.Home != nil {
		if err := stageHome(c); err != nil {
			return err
		}
	}
	if err := stageRoot(c); err != nil {
		return err
	}
	return checkTargets(c)
}

func bindStage(c *spec.Create, i int) string { return filepath.Join(c.StageDir, "b"+strconv.Itoa(i)) }
func homeStage(c *spec.Create) string        { return filepath.Join(c.StageDir, "home") }
func rootStage(c *spec.Create) string        { return filepath.Join(c.StageDir, "root") }

// plain are the attributes of a tree that holds neither programs with rights
// nor devices.
const plain = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// put attaches an id-mapped copy of the directory source at the new directory
// target.
func put(source, target string, userns *os.File, attrs uint64, recursive bool) error {
	tree, err := idmap.Clone(source, userns, attrs, recursive)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	return idmap.Attach(tree, target)
}

func stageHome(c *spec.Create) error {
	userns, err := idmap.Namespace([]idmap.Map{c.Home.UID}, []idmap.Map{c.Home.GID})
	if err != nil {
		return err
	}
	defer userns.Close()
	return put(c.Home.Source, homeStage(c), userns, plain, false)
}

// stageRoot mounts the overlay. The options that let an upper layer refer to
// other places of a lower one are off, whatever the kernel's defaults.
func stageRoot(c *spec.Create) error {
	if err := os.Mkdir(rootStage(c), 0o755); err != nil {
		return err
	}
	err := overlayByConfig(c)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// lowerdir+ came with Linux 6.7; before, one string has it all.
		err = overlayByString(c)
	}
	if err != nil {
		return fmt.Errorf("mount overlay of %d layers: %w", len(c.Root.Layers), err)
	}
	return nil
}

// checkTargets refuses a root in which something is mounted behind a link:
// libcontainer would follow it, and a home could land where an image wants it.
// What is not there yet is made as a directory.
func checkTargets(c *spec.Create) error {
	root, err := unix.Open(rootStage(c), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	targets := []string{"/dev", "/proc", "/run", "/sys"}
	for _, b := range c.Root.Binds {
		targets = append(targets, b.Target)
	}
	if c.Home != nil {
		targets = append(targets, c.Home.Target)
	}
	for _, target := range targets {
		fd, err := unix.Openat2(root, strings.TrimPrefix(target, "/"), &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if errors.Is(err, unix.ELOOP) {
			return fmt.Errorf("%s is, or lies behind, a symbolic link of the image or the user's", target)
		}
		if err == nil {
			_ = unix.Close(fd)
		} else if !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("look at %s in the root: %w", target, err)
		}
	}
	return nil
}

var overlayOptions = [][2]string{{"index", "off"}, {"metacopy", "off"}, {"redirect_dir", "nofollow"}}

func overlayByConfig(c *spec.Create) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for i := range c.Root.Layers {
		if err := unix.FsconfigSetString(fs, "lowerdir+", filepath.Join(c.StageDir, strconv.Itoa(i))); err != nil {
			return err
		}
	}
	options := append([][2]string{{"source", "carrel"}, {"upperdir", c.Root.Upper}, {"workdir", c.Root.Work}}, overlayOptions...)
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, plain)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	return unix.MoveMount(mount, "", unix.AT_FDCWD, rootStage(c), unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// overlayByString names the layers relative to the stage, so that 127 of them
// fit into the page that mount(2) takes.
func overlayByString(c *spec.Create) error {
	if err := unix.Chdir(c.StageDir); err != nil {
		return err
	}
	defer func() { _ = unix.Chdir("/") }()
	lowers := make([]string, len(c.Root.Layers))
	for i := range lowers {
		lowers[i] = strconv.Itoa(i)
	}
	if strings.ContainsAny(c.Root.Upper+c.Root.Work, ",:\\") {
		return unix.EINVAL
	}
	data := "lowerdir=" + strings.Join(lowers, ":") + ",upperdir=" + c.Root.Upper + ",workdir=" + c.Root.Work
	for _, o := range overlayOptions {
		data += "," + o[0] + "=" + o[1]
	}
	return unix.Mount("carrel", rootStage(c), "overlay", unix.MS_NOSUID|unix.MS_NODEV, data)
}
