package events

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// A Log keeps events in files. It is safe for concurrent use.
type Log struct {
	path     string
	maxBytes int64
	log      *slog.Logger
	queue    chan Event
	written  chan struct{} // closed when the writer has ended

	mu        sync.Mutex
	lost      int
	followers map[chan Event]struct{}
	closed    bool
}

const (
	// keep is how many files there are besides the one that grows.
	keep = 3
	// queued is how many events may wait to be written.
	queued = 4096
	// behind is how far a follower may fall behind.
	behind = 1024
)

// Open returns the log in the file path, which is rotated at maxBytes; 0 is
// 8 MiB. A log that cannot be written is no error later: each failure is said
// to the logger once until it is over.
func Open(path string, maxBytes int64, log *slog.Logger) (*Log, error) {
	if maxBytes == 0 {
		maxBytes = 8 << 20
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	l := &Log{
		path: path, maxBytes: maxBytes, log: log, queue: make(chan Event, queued), written: make(chan struct{}),
		followers: make(map[chan Event]struct{}),
	}
	go l.run()
	return l, nil
}

// Add keeps an event. It does not wait.
func (l *Log) Add(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	select {
	case l.queue <- e:
	default:
		l.lost++
		return
	}
	for f := range l.followers {
		select {
		case f <- e:
		default: // it is slow, and is told so
			delete(l.followers, f)
			close(f)
		}
	}
}

// Close writes what waits and ends.
func (l *Log) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
		for f := range l.followers {
			delete(l.followers, f)
			close(f)
		}
	}
	l.mu.Unlock()
	<-l.written
}

// run writes until the log is closed. It opens the file for each batch, so
// that nothing is held when nothing happens, and a file that somebody removed
// comes back.
func (l *Log) run() {
	defer close(l.written)
	failing := false
	for e := range l.queue {
		batch := e.encode()
		for more := true; more && len(batch) < 64<<10; {
			select {
			case e, ok := <-l.queue:
				if more = ok; ok {
					batch = append(batch, e.encode()...)
				}
			default:
				more = false
			}
		}
		l.mu.Lock()
		lost := l.lost
		l.lost = 0
		l.mu.Unlock()
		if lost > 0 {
			batch = append(batch, Event{Time: time.Now(), Kind: Lost, Detail: fmt.Sprintf("%d events came too fast", lost)}.encode()...)
		}
		err := l.write(batch)
		if err != nil && !failing {
			l.log.Error("events are not kept", "err", err)
		}
		failing = err != nil
	}
}

// write appends whole lines and rotates.
func (l *Log) write(batch []byte) error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(batch)
	info, statErr := f.Stat()
	if err := errors.Join(err, statErr, f.Close()); err != nil {
		return err
	}
	if info.Size() < l.maxBytes {
		return nil
	}
	for i := keep; i > 0; i-- {
		err := os.Rename(l.file(i-1), l.file(i))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (l *Log) file(i int) string {
	if i == 0 {
		return l.path
	}
	return fmt.Sprintf("%s.%d", l.path, i)
}

// Read hands the kept events to yield, oldest first, until yield fails. A line
// that is not one, such as the last one after a power cut, is passed over.
func (l *Log) Read(yield func(Event) error) error {
	for i := keep; i >= 0; i-- {
		f, err := os.Open(l.file(i))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = read(f, yield)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func read(f *os.File, yield func(Event) error) error {
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		e, err := decode(lines.Bytes())
		if err != nil {
			continue
		}
		if err := yield(e); err != nil {
			return err
		}
	}
	return lines.Err()
}

// ErrSlow says that a follower did not keep up.
var ErrSlow = errors.New("events came faster than they were taken")

// Follow hands over what is added from now on, until ctx ends (no error), the
// log is closed, or yield fails. begun, if not nil, is called when nothing
// that is added later can be missed.
func (l *Log) Follow(ctx context.Context, begun func() error, yield func(Event) error) error {
	f := make(chan Event, behind)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.followers[f] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.followers, f)
	}()
	if begun != nil {
		if err := begun(); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-f:
			if !ok {
				l.mu.Lock()
				defer l.mu.Unlock()
				if l.closed {
					return nil
				}
				return ErrSlow
			}
			if err := yield(e); err != nil {
				return err
			}
		}
	}
}
