package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"
)

func TestPulse(t *testing.T) {
	for _, tt := range []struct {
		name  string
		check func(context.Context) error
		pings bool
	}{
		{"well", func(context.Context) error { return nil }, true},
		{"ill", func(context.Context) error { return errors.New("no answer") }, false},
		{"hangs", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			pings := 0
			pulse(ctx, 10*time.Millisecond, tt.check, func() { pings++ }, slog.New(slog.DiscardHandler))
			if (pings > 1) != tt.pings {
				t.Errorf("%d pings; want some: %v", pings, tt.pings)
			}
		})
	}
}

// TestGreet calls a listener that serves, and one whose owner hangs.
func TestGreet(t *testing.T) {
	for _, serves := range []bool{true, false} {
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if serves {
			go func() {
				if conn, err := l.Accept(); err == nil {
					_, _ = conn.Read(make([]byte, 1))
					conn.Close()
				}
			}()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := greet(ctx, l.Addr()); (err == nil) != serves {
			t.Errorf("greet, somebody serving: %v: %v", serves, err)
		}
	}
}
