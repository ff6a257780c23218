package survive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// How long carreld is killed, how often, and under how many sessions.
const (
	short, long = 20 * time.Second, 5 * time.Minute
	every       = 2 * time.Second
	streams     = 50
)

// TestKilledAgainAndAgain kills carreld under sessions that send back what they
// get, and logs in between.
func TestKilledAgainAndAgain(t *testing.T) {
	h := setup(t)
	users := []host.Account{account(t, h, "a"), account(t, h, "b")}
	start(t, h, host.Options{})
	t.Cleanup(func() {
		for _, a := range users {
			_ = h.Carrel("stop", a.Name)
		}
		_ = h.Stop()
	})
	end := time.Now().Add(short)
	if os.Getenv("CARREL_LONG") == "1" {
		end = time.Now().Add(long)
	}
	var sessions sync.WaitGroup
	failed := make(chan error, 2*streams)
	ready := make(chan struct{}, streams)
	for i := range streams {
		sessions.Go(func() {
			if err := echo(h, users[i%2], i, ready, end); err != nil {
				failed <- fmt.Errorf("stream %d: %w", i, err)
			}
		})
	}
	for range streams {
		select {
		case <-ready:
		case err := <-failed:
			t.Fatal(err)
		}
	}
	kills, logins := 0, 0
	for ; time.Now().Before(end); kills++ {
		h.Daemon().Kill()
		start(t, h, host.Options{})
		for restart := time.Now(); time.Since(restart) < every; logins++ {
			a := users[logins%2]
			token := fmt.Sprint("token", logins)
			if r := h.In(a, "echo "+token+"; exit 7", nil); r.Code != 7 || r.Stdout != token+"\n" {
				t.Errorf("login %d: %v", logins, r)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	sessions.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	inits, err := h.Inits()
	if err != nil || len(inits) != len(users) {
		t.Errorf("%d containers, %v; want %d", len(inits), err, len(users))
	}
	t.Logf("%d kills, %d logins between them, %d streams", kills, logins, streams)
}

// echo has one session send everything back until end, and checks the status.
func echo(h *host.Host, a host.Account, i int, ready chan<- struct{}, end time.Time) error {
	cmd := h.Direct(a, "-c", fmt.Sprintf("cat; exit %d", 100+i))
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Process.Kill() }()
	random := rand.NewChaCha8([32]byte{byte(i)})
	for round := 0; round == 0 || time.Now().Before(end); round++ {
		data := make([]byte, 1+random.Uint64()%(128<<10))
		_, _ = random.Read(data)
		sent := make(chan error, 1)
		go func() {
			_, err := in.Write(data)
			sent <- err
		}()
		back := make([]byte, len(data))
		n, err := io.ReadFull(out, back)
		if err = errors.Join(err, <-sent); err != nil {
			return fmt.Errorf("%d of %d bytes of round %d: %w", n, len(data), round, err)
		}
		if !bytes.Equal(data, back) {
			return fmt.Errorf("round %d came back changed", round)
		}
		if round == 0 {
			ready <- struct{}{}
		}
		time.Sleep(100 * time.Millisecond)
	}
	in.Close()
	rest, err := io.ReadAll(out)
	_ = cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); err != nil || len(rest) > 0 || status != 100+i {
		return fmt.Errorf("%d bytes after the end, %w, status %d; want %d", len(rest), err, status, 100+i)
	}
	return nil
}
