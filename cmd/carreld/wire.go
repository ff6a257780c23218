package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/imagestore"
	"github.com/carrel-sh/carrel/policy"
	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/sandbox/idrange"
	"github.com/carrel-sh/carrel/session/admin"
	"github.com/carrel-sh/carrel/session/broker"
	"github.com/carrel-sh/carrel/session/broker/greeting"
	"github.com/carrel-sh/carrel/session/events"
	"github.com/carrel-sh/carrel/session/keeper"
)

// options are the command line.
type options struct {
	config, runDir, stateDir, libexecDir, cgroup string
}

// Exit statuses, after sysexits.h.
const (
	exitUsage   = 64
	exitRunning = 69 // another carreld runs
	exitFailed  = 71
	exitNoRoot  = 77
	exitConfig  = 78
)

var (
	errNoRoot  = errors.New("must run as root")
	errRunning = errors.New("another carreld runs on this directory")
	errConfig  = errors.New("configuration")
)

func exitStatus(err error) int {
	switch {
	case errors.Is(err, errNoRoot):
		return exitNoRoot
	case errors.Is(err, errRunning):
		return exitRunning
	case errors.Is(err, errConfig):
		return exitConfig
	}
	return exitFailed
}

// defaultLibexec is where `make install` puts the helpers: beside the
// directory of carreld itself.
func defaultLibexec() string {
	own, err := os.Executable()
	if err != nil {
		return "/usr/libexec/carrel"
	}
	return filepath.Join(filepath.Dir(filepath.Dir(own)), "libexec", "carrel")
}

// run serves until ctx ends. The containers stay.
func run(ctx context.Context, o options, log *slog.Logger) error {
	if os.Geteuid() != 0 {
		return errNoRoot
	}
	unix.Umask(0o022)
	cfg, err := config.Load(o.config)
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	if err := os.MkdirAll(o.runDir, 0o755); err != nil {
		return err
	}
	lock, err := lockDir(o.runDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	login, adm, err := listeners(o)
	if err != nil {
		return err
	}
	defer login.Close()
	defer adm.Close()
	b, boxes, err := build(o, cfg, log)
	if err != nil {
		return err
	}
	defer boxes.Close()
	back, err := oversee(o, b, boxes, log)
	if err != nil {
		return err
	}
	defer back.events.Close()
	var current atomic.Pointer[policy.Policy]
	current.Store(policy.New(cfg))
	b.Policy = current.Load
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP)
	defer signal.Stop(reloads)
	go reload(ctx, reloads, o.config, &current, log)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var servers sync.WaitGroup
	servers.Go(func() { cancel(b.Serve(ctx, login)) })
	servers.Go(func() {
		cancel((&admin.Server{Backend: back, Logger: log, Version: version}).Serve(ctx, adm))
	})
	servers.Go(func() { back.keeper.Run(ctx) })
	log.Info("ready", "version", version, "containers", len(boxes.Running()))
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	servers.Go(func() {
		watch(ctx, log, func(ctx context.Context) error { return answers(ctx, login.Addr(), adm.Addr()) })
	})
	<-ctx.Done()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	servers.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("stopped; containers run on", "containers", len(boxes.Running()))
	return nil
}

// build makes the parts that serve logins.
func build(o options, cfg *config.Config, log *slog.Logger) (*broker.Broker, *sandbox.Manager, error) {
	store, err := imagestore.Open(imagestore.Config{
		Dir: filepath.Join(o.stateDir, "images"), UnpackPath: filepath.Join(o.libexecDir, "carrel-unpack"),
		WorkerFirstID: cfg.IDs.First, Logger: log,
	})
	if err != nil {
		return nil, nil, err
	}
	b := broker.New()
	b.Logger = log
	wired := make(chan struct{}) // an adopted container may end before the broker is whole
	var boxes *sandbox.Manager
	boxes, err = sandbox.Open(sandbox.Config{
		RunDir: o.runDir, StateDir: o.stateDir, LibexecDir: o.libexecDir, CgroupParent: o.cgroup,
		IDs: idrange.Region{First: cfg.IDs.First, Count: int(cfg.IDs.Count / idrange.Size)},
		Ended: func(uid uint32) {
			<-wired
			b.Ended(uid)
			collect(store, boxes.Layers, log)
		},
		Logger: log,
	})
	if err != nil {
		return nil, nil, err
	}
	b.Accounts, b.Images, b.Sandboxes = &accounts.Source{}, store, broker.Manager{Manager: boxes}
	close(wired)
	go collect(store, boxes.Layers, log)
	return b, boxes, nil
}

// oversee makes the parts that look after what runs, and lets the broker tell
// them.
func oversee(o options, b *broker.Broker, boxes *sandbox.Manager, log *slog.Logger) (*backend, error) {
	happened, err := events.Open(filepath.Join(o.stateDir, "events.jsonl"), 0, log)
	if err != nil {
		return nil, err
	}
	back := &backend{
		broker: b, boxes: boxes, events: happened, closure: filepath.Join(o.stateDir, "maintenance.json"),
		keeper: &keeper.Keeper{Running: boxes.Running, Find: boxes.Find, StopIdle: b.StopIdle, Events: happened, Own: b.Ask, Logger: log},
	}
	back.keeper.Adopt()
	b.Observer, b.Own = back.keeper, back.own
	b.Greetings = greeting.Store{Dir: filepath.Join(o.stateDir, "lastlogin")}
	if err := back.reopen(); err != nil {
		happened.Close()
		return nil, err
	}
	return back, nil
}

// collect gives back the space of layers that no image names any more and no
// container uses.
func collect(store *imagestore.Store, inUse func() []string, log *slog.Logger) {
	if err := store.Collect(context.Background(), inUse); err != nil {
		log.Error("collect unused layers", "err", err)
	}
}

// reload reads the configuration again at each signal. A bad file leaves the
// last good one in force.
func reload(ctx context.Context, signals <-chan os.Signal, path string, current *atomic.Pointer[policy.Policy], log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			cfg, err := config.Load(path)
			if err != nil {
				log.Error("configuration not reloaded; the former one stays in force", "err", err)
				continue
			}
			current.Store(policy.New(cfg))
			log.Info("configuration reloaded")
		}
	}
}

// lockDir makes sure that one carreld works on a directory.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %q", errRunning, dir)
	}
	return f, nil
}

// listeners returns the login and the admin socket: those that a service
// manager passed (sd_listen_fds(3); named login and admin), or new ones.
func listeners(o options) (login, adm *net.UnixListener, err error) {
	for _, f := range activation.Files(true) {
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, nil, fmt.Errorf("inherited socket %q: %w", f.Name(), err)
		}
		u, ok := l.(*net.UnixListener)
		if !ok {
			return nil, nil, fmt.Errorf("inherited socket %q is not a unix socket", f.Name())
		}
		switch u.Addr().Network() {
		case "unixpacket":
			login = u
		case "unix":
			adm = u
		}
	}
	if login == nil {
		if login, err = listen(filepath.Join(o.runDir, "login.sock"), broker.Listen); err != nil {
			return nil, nil, err
		}
	}
	if adm == nil {
		if adm, err = listen(filepath.Join(o.runDir, "admin.sock"), admin.Listen); err != nil {
			return nil, nil, err
		}
	}
	return login, adm, nil
}

// listen replaces a socket that a killed daemon left; the lock says that none
// lives.
func listen(path string, make func(string) (*net.UnixListener, error)) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return make(path)
}
