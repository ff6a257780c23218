package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // without it no device rule can be set, and no container starts
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/idmap"
	"github.com/carrel-sh/carrel/sandbox/spec"
)

// Init is the second life of the binary: libcontainer executes it again as
// the container's first process, which turns into carrel-init. It does not
// return.
func Init() { libcontainer.Init() }

// Create creates and starts the container. placed waits for the user's cgroup,
// which is made elsewhere meanwhile. files are the descriptors from
// spec.ListenerFD on, but for those of the boxes. On an error nothing is left
// but what Delete removes.
func Create(c *spec.Create, placed func() (spec.Cgroup, error), files []*os.File, log *os.File) (spec.Created, error) {
	if err := stage(c); err != nil {
		return spec.Created{}, err
	}
	cgroup, err := placed()
	if err != nil {
		return spec.Created{}, fmt.Errorf("wait for the cgroup: %w", err)
	}
	for _, box := range cgroup.Boxes {
		f, err := os.OpenFile(box, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return spec.Created{}, err
		}
		defer f.Close()
		files = append(files, f)
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return spec.Created{}, err
	}
	container, err := libcontainer.Create(c.StateDir, c.ID, config(c, &cgroup))
	if err != nil {
		return spec.Created{}, fmt.Errorf("create container: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return spec.Created{}, err
	}
	defer null.Close()
	process := &libcontainer.Process{
		Args: []string{initTarget}, Cwd: "/", Init: true,
		// Without HOME libcontainer opens the image's /etc/passwd for one, and
		// waits for ever if that is a pipe.
		Env:   []string{"HOME=/"},
		Stdin: null, Stdout: null, Stderr: log,
		ExtraFiles: files,
	}
	if err := container.Run(process); err != nil {
		_ = container.Destroy()
		return spec.Created{}, fmt.Errorf("start container: %w", err)
	}
	pid, err := process.Pid()
	if err != nil {
		return spec.Created{}, err
	}
	return spec.Created{InitPID: pid}, nil
}

// Delete removes a container's state and its cgroup. It is no error if there
// is none.
func Delete(d *spec.Delete) error {
	container, err := libcontainer.Load(d.StateDir, d.ID)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return os.RemoveAll(filepath.Join(d.StateDir, d.ID))
	}
	if err != nil {
		return fmt.Errorf("load container: %w", err)
	}
	if err := container.Destroy(); err != nil {
		return fmt.Errorf("destroy container: %w", err)
	}
	return nil
}

// Where our own files are inside, on a tmpfs of our own. session/spawn knows the
// second one, too.
const (
	initTarget     = "/run/.carrel/init"
	transferTarget = "/run/.carrel/transfer"
)

const noPrograms = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV

func config(c *spec.Create, cgroup *spec.Cgroup) *configs.Config {
	// What init needs to become what it stays; it drops the bounding set and
	// all but four of these itself (session/spawn).
	rights := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"}
	cfg := &configs.Config{
		Rootfs:          rootStage(c),
		RootPropagation: unix.MS_PRIVATE | unix.MS_REC,
		Hostname:        c.Hostname,
		UIDMappings:     idMap(c.UIDMap),
		GIDMappings:     idMap(c.GIDMap),
		Capabilities:    &configs.Capabilities{Bounding: rights, Permitted: rights, Effective: rights},
		NoNewPrivileges: true,
		// A key per container would be charged to the mapped root's quota, and
		// seccomp denies the keyring calls.
		NoNewKeyring: true,
		Namespaces: configs.Namespaces{
			{Type: configs.NEWUSER}, {Type: configs.NEWNS}, {Type: configs.NEWPID}, {Type: configs.NEWNET},
			{Type: configs.NEWIPC}, {Type: configs.NEWUTS}, {Type: configs.NEWCGROUP},
		},
		Networks: []*configs.Network{{Type: "loopback", Address: "127.0.0.1/0", Gateway: "localhost"}},
		Cgroups:  &cgroups.Cgroup{Path: cgroup.Path, Resources: &cgroups.Resources{}},
		Rlimits:  rlimits(),
		Sysctl: map[string]string{
			// No further user namespace below ours: they are the usual way to
			// reach the kernel's less tested half (CVE-2022-0185 and others).
			"user.max_user_namespaces": "0",
			// A machine of one's own has no privileged ports, and ping works
			// without a capability (icmp(7)).
			"net.ipv4.ip_unprivileged_port_start": "0",
			"net.ipv4.ping_group_range":           "0 64999",
		},
		MaskPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
	}
	for _, d := range nodes {
		cfg.Devices = append(cfg.Devices, d)
		cfg.Cgroups.Devices = append(cfg.Cgroups.Devices, &d.Rule)
	}
	cfg.Cgroups.Devices = append(cfg.Cgroups.Devices, terminals...)
	cfg.Mounts = mounts(c, cgroup)
	return cfg
}

func mounts(c *spec.Create, cgroup *spec.Cgroup) []*configs.Mount {
	var list []*configs.Mount
	for i, b := range c.Root.Binds {
		flags := unix.MS_BIND
		if b.Recursive {
			flags |= unix.MS_REC
		}
		list = append(list, &configs.Mount{Source: bindStage(c, i), Destination: b.Target, Device: "bind",
			Flags: flags | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV})
	}
	// Before everything that is Carrel's: nothing of the user's can cover that.
	if c.Home != nil {
		list = append(list, &configs.Mount{Source: homeStage(c), Destination: c.Home.Target, Device: "bind",
			Flags: unix.MS_BIND | unix.MS_NOSUID | unix.MS_NODEV})
	}
	list = append(list,
		&configs.Mount{Source: "proc", Destination: "/proc", Device: "proc", Flags: noPrograms},
		&configs.Mount{Source: "tmpfs", Destination: "/dev", Device: "tmpfs",
			Flags: unix.MS_NOSUID | unix.MS_STRICTATIME, Data: "mode=755,size=64k"},
		&configs.Mount{Source: "devpts", Destination: "/dev/pts", Device: "devpts", Flags: unix.MS_NOSUID | unix.MS_NOEXEC,
			Data: fmt.Sprintf("newinstance,ptmxmode=0666,mode=0620,gid=5,max=%d", c.PtyMax)},
		&configs.Mount{Source: "shm", Destination: "/dev/shm", Device: "tmpfs", Flags: noPrograms,
			Data: fmt.Sprintf("mode=1777,size=%d", c.ShmBytes)},
		&configs.Mount{Source: "mqueue", Destination: "/dev/mqueue", Device: "mqueue", Flags: noPrograms},
		&configs.Mount{Source: "sysfs", Destination: "/sys", Device: "sysfs", Flags: noPrograms | unix.MS_RDONLY},
	)
	if cgroup.V2 {
		list = append(list, &configs.Mount{Source: "cgroup", Destination: "/sys/fs/cgroup", Device: "cgroup",
			Flags: noPrograms | unix.MS_RDONLY})
	}
	list = append(list,
		&configs.Mount{Source: "run", Destination: "/run", Device: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_NODEV,
			Data: fmt.Sprintf("mode=755,size=%d", c.RunBytes)},
		&configs.Mount{Source: c.InitPath, Destination: initTarget, Device: "bind",
			Flags: unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV},
	)
	if c.TransferPath != "" {
		list = append(list, &configs.Mount{Source: c.TransferPath, Destination: transferTarget, Device: "bind",
			Flags: unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV})
	}
	return list
}

// nodes are the devices that a container has: those of the OCI runtime
// specification ("Default Devices"), without the right to make others.
var nodes = []*devices.Device{
	node("/dev/null", 1, 3), node("/dev/zero", 1, 5), node("/dev/full", 1, 7),
	node("/dev/random", 1, 8), node("/dev/urandom", 1, 9), node("/dev/tty", 5, 0),
}

// terminals are allowed but made by devpts.
var terminals = []*devices.Rule{
	{Type: devices.CharDevice, Major: 5, Minor: 2, Permissions: "rw", Allow: true},
	{Type: devices.CharDevice, Major: 136, Minor: devices.Wildcard, Permissions: "rw", Allow: true},
}

func node(path string, major, minor int64) *devices.Device {
	return &devices.Device{Path: path, FileMode: 0o666, Rule: devices.Rule{
		Type: devices.CharDevice, Major: major, Minor: minor, Permissions: "rw", Allow: true,
	}}
}

// The paths of /proc and /sys that tell of the host or reach into it: those of
// moby's default specification, powercap (GHSA-7ww5-4wqc-m92c) and a few more
// that list the host's hardware.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/proc/kallsyms",
		"/sys/devices/virtual/powercap", "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/security",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// rlimits are the limits of every process of the container: no core files, for
// the host's core_pattern may start a program as root (CVE-2025-4598), and as
// many descriptors as our own limit lets us give.
func rlimits() []configs.Rlimit {
	const softFiles, hardFiles = 1024, 524288 // systemd's defaults since 240
	var own unix.Rlimit
	hard := uint64(hardFiles)
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err == nil {
		hard = min(hard, own.Max)
	}
	return []configs.Rlimit{
		{Type: unix.RLIMIT_CORE},
		{Type: unix.RLIMIT_NOFILE, Soft: min(softFiles, hard), Hard: hard},
	}
}

func idMap(maps []idmap.Map) []configs.IDMap {
	out := make([]configs.IDMap, len(maps))
	for i, m := range maps {
		out[i] = configs.IDMap{ContainerID: int64(m.Inside), HostID: int64(m.Outside), Size: int64(m.Size)}
	}
	return out
}
