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
	queue    chan entry
	written  chan struct{} // closed when the writer has ended

	mu        sync.Mutex
	lost      int
	followers map[chan Event]struct{}
	closed    bool
}

// An entry is an event to be written, or a wish to know that all before it
// are.
type entry struct {
	event   Event
	reached chan struct{}
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
		path: path, maxBytes: maxBytes, log: log, queue: make(chan entry, queued), written: make(chan struct{}),
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
	case l.queue <- entry{event: e}:
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
	for first := range l.queue {
		var batch []byte
		var reached []chan struct{}
		take := func(n entry) {
			if n.reached != nil {
				reached = append(reached, n.reached)
				return
			}
			batch = append(batch, n.event.Line()...)
		}
		take(first)
		for more := true; more && len(batch) < 64<<10; {
			select {
			case next, ok := <-l.queue:
				if more = ok; ok {
					take(next)
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
			batch = append(batch, Event{Time: time.Now(), Kind: Lost, Detail: fmt.Sprintf("%d events came too fast", lost)}.Line()...)
		}
		err := l.write(batch)
		if err != nil && !failing {
			l.log.Error("events are not kept", "err", err)
		}
		failing = err != nil
		for _, r := range reached {
			close(r)
		}
	}
}

// flush returns when what was added before is written.
func (l *Log) flush() {
	reached := make(chan struct{})
	l.mu.Lock()
	closed := l.closed
	if !closed {
		select {
		case l.queue <- entry{reached: reached}:
		default:
			closed = true // there is more than can be waited for
		}
	}
	l.mu.Unlock()
	if !closed {
		<-reached
	}
}

// write appends whole lines and rotates.
func (l *Log) write(batch []byte) error {
	if len(batch) == 0 {
		return nil
	}
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

// Tail hands over what is kept, then what is added, until ctx ends (no error),
// the log is closed, or yield fails: each event once. begun, if not nil, is
// called in between.
func (l *Log) Tail(ctx context.Context, begun func() error, yield func(Event) error) error {
	// What is added while the files are read is in them and comes again.
	both := make(map[string]int)
	return l.follow(ctx, func() error {
		since := time.Now().Add(-time.Minute) // an event may be older than its addition
		l.flush()
		err := l.Read(func(e Event) error {
			if e.Time.After(since) {
				both[string(e.Line())]++
			}
			return yield(e)
		})
		if err == nil && begun != nil {
			err = begun()
		}
		return err
	}, func(e Event) error {
		if len(both) > 0 {
			if key := string(e.Line()); both[key] > 0 {
				both[key]--
				return nil
			}
		}
		return yield(e)
	})
}

// follow hands over what is added from the call of begun on.
func (l *Log) follow(ctx context.Context, begun func() error, yield func(Event) error) error {
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
	if err := begun(); err != nil {
		return err
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
