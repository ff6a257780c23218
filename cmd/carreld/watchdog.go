package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/carrel-sh/carrel/session/admin"
)

// watch tells the service manager that carreld is well, as long as it is: each
// time it asked for both of its sockets to answer, and they did. It returns
// when ctx ends, or at once if nobody wants to know (WatchdogSec=,
// sd_watchdog_enabled(3)).
func watch(ctx context.Context, log *slog.Logger, check func(context.Context) error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	ping := func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog) }
	pulse(ctx, interval/2, check, ping, log) // half is what sd_watchdog_enabled(3) recommends
}

// pulse calls ping after each check that found nothing. A check has as long as
// there is between two of them.
func pulse(ctx context.Context, every time.Duration, check func(context.Context) error, ping func(), log *slog.Logger) {
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, every)
		err := check(limited)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("not well", "err", err)
		default:
			ping()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}

// answers asks both sockets: a daemon whose listeners hang is as good as
// dead, however alive its other threads are.
func answers(ctx context.Context, login, adm net.Addr) error {
	if err := greet(ctx, login); err != nil {
		return fmt.Errorf("login socket: %w", err)
	}
	_, err := (&admin.Client{Path: adm.String()}).Status(ctx)
	return err
}

// greet calls as carrelsh does and hangs up before it asks for anything, which
// the broker does not log when root does it. That it hangs up too shows that
// logins are accepted and that no lock of theirs is stuck.
func greet(ctx context.Context, login net.Addr) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, login.Network(), login.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	if err := u.CloseWrite(); err != nil {
		return err
	}
	// The end of a SOCK_SEQPACKET is a read of nothing, which Go leaves alone.
	if n, err := u.Read(make([]byte, 1)); n != 0 || err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%d bytes instead of the end: %w", n, err)
	}
	return nil
}
