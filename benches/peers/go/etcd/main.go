// Locks of go.etcd.io/etcd/client/v3/concurrency beside bare puts and deletes through the same client: what the Rust program
// `etcd` of this folder runs as one of those that are compared.
//
//	echo 'cycles mutex 64 own 1000' | go run . 127.0.0.1:2379
//
// An order a line, an answer a line, as JSON, times in microseconds:
//
//	cycles floor|mutex TASKS own|same MILLISECONDS
//	hand-offs SAMPLES short|long quiet|writers
//
// Each task has a session of its own, as the package wants it: two tasks with one session would hold a lock together.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const ttl = 3600

// The most tasks that are asked for.
const most = 64

// As long as what the others write.
const value = "00112233445566778899aabbccddeeff 1234 1 1 s exclusive  12345,some-host.example,,,"

// peer is one client, and the sessions of its tasks.
type peer struct {
	client   *clientv3.Client
	sessions []*concurrency.Session
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: go run . HOST:PORT")
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Args[1]}})
	check(err)
	p := &peer{client: client}
	for range most {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
		check(err)
		p.sessions = append(p.sessions, session)
	}
	fmt.Println("ready")
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		answer, err := json.Marshal(p.obey(strings.Fields(orders.Text())))
		check(err)
		fmt.Println(string(answer))
	}
}

func (p *peer) obey(order []string) any {
	switch {
	case len(order) == 5 && order[0] == "cycles":
		return p.cycles(order[1], number(order[2]), order[3] == "same", number(order[4]))
	case len(order) == 4 && order[0] == "hand-offs":
		return p.handOffs(number(order[1]), order[2] == "long", order[3] == "writers")
	}
	log.Fatalf("unknown: %q", order)
	return nil
}

// locker is one task's lock.
type locker interface {
	take()
	giveBack()
}

// bare is the least that a lock can be.
type bare struct {
	client *clientv3.Client
	lease  clientv3.LeaseID
	key    string
}

func (b *bare) take() {
	_, err := b.client.Put(context.Background(), b.key, value, clientv3.WithLease(b.lease))
	check(err)
}

func (b *bare) giveBack() {
	_, err := b.client.Delete(context.Background(), b.key)
	check(err)
}

type mutex struct{ *concurrency.Mutex }

func (m *mutex) take()     { check(m.Lock(context.Background())) }
func (m *mutex) giveBack() { check(m.Unlock(context.Background())) }

func (p *peer) locker(what string, task int, key string) locker {
	session := p.sessions[task]
	if what == "floor" {
		return &bare{p.client, session.Lease(), "go/floor/" + key}
	}
	return &mutex{concurrency.NewMutex(session, "go/mutex/"+key)}
}

func number(word string) int {
	n, err := strconv.Atoi(word)
	check(err)
	return n
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
