package pullnext_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/pullnext"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// stuck is an iterator that has not asked for more, and does when it is called
// for the nth time. Until then it waits as the one does on which nothing comes.
type stuck struct {
	jetstream.MessagesContext
	asksAt int
	calls  int
	called chan struct{} // is told of each call; nil for nobody
}

type message struct{ jetstream.Msg }

func (s *stuck) Next(options ...jetstream.NextOpt) (jetstream.Msg, error) {
	s.calls++
	select {
	case s.called <- struct{}{}:
	default:
	}
	if s.calls >= s.asksAt {
		return message{}, nil
	}
	return s.MessagesContext.Next(options...)
}

func TestAPullThatAsksForNothingIsAskedAgainAtOnce(t *testing.T) {
	_, js := natstest.Start(t)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	silent, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Stop()
	for _, asksAt := range []int{1, 2, 3, 4} {
		iterator := &stuck{MessagesContext: silent, asksAt: asksAt}
		got, err := pullnext.Next(wait.Context(t, "message of an iterator that is asked again"), iterator)
		if err != nil || got == nil || iterator.calls != asksAt {
			t.Errorf("%v, %v after %d calls; want a message after %d", got, err, iterator.calls, asksAt)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	waiting := &stuck{MessagesContext: silent, asksAt: 100, called: make(chan struct{}, 100)}
	go func() {
		_, err := pullnext.Next(ctx, waiting)
		ended <- err
	}()
	wait.Receive(t, "first look", waiting.called)
	cancel()
	if err := wait.Receive(t, "end of the wait", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if _, err := js.Publish(t.Context(), "s", []byte("there")); err != nil {
		t.Fatal(err)
	}
	got, err := pullnext.Next(wait.Context(t, "message that is there"), silent)
	if err != nil || string(got.Data()) != "there" {
		t.Errorf("%v, %v", got, err)
	}
	silent.Stop()
	if _, err := pullnext.Next(wait.Context(t, "end of a pull that was stopped"), silent); !errors.Is(err, jetstream.ErrMsgIteratorClosed) {
		t.Errorf("of a pull that was stopped, the error is %v", err)
	}
}
