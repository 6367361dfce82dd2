package main

import (
	"context"
	"math"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// cycled is what came of a round.
type cycled struct {
	Rate        float64 `json:"rate"`
	TakeP50     float64 `json:"take_p50"`
	TakeP99     float64 `json:"take_p99"`
	GiveBackP50 float64 `json:"give_back_p50"`
	GiveBackP99 float64 `json:"give_back_p99"`
	Jain        float64 `json:"jain"`
	// What a cycle took of the processor here.
	Client float64 `json:"client"`
}

// cycles lets so many tasks take and give back until the time is over, each on a key of its own or all on the same.
func (p *peer) cycles(what string, tasks int, same bool, millis int) cycled {
	limit := time.Duration(millis) * time.Millisecond
	takes, gives := make([][]float64, tasks), make([][]float64, tasks)
	before, start := cpu(), time.Now()
	var working sync.WaitGroup
	for task := range tasks {
		key := "same"
		if !same {
			key = strconv.Itoa(task)
		}
		lock := p.locker(what, task, key)
		working.Go(func() {
			for time.Since(start) < limit {
				asked := time.Now()
				lock.take()
				taken := time.Now()
				lock.giveBack()
				takes[task] = append(takes[task], micros(taken.Sub(asked)))
				gives[task] = append(gives[task], micros(time.Since(taken)))
			}
		})
	}
	working.Wait()
	elapsed, spent := time.Since(start), cpu()-before
	all, squares := 0.0, 0.0
	for _, taken := range takes {
		share := float64(len(taken))
		all += share
		squares += share * share
	}
	take, give := slices.Concat(takes...), slices.Concat(gives...)
	return cycled{
		Rate:        all / elapsed.Seconds(),
		TakeP50:     at(take, 500),
		TakeP99:     at(take, 990),
		GiveBackP50: at(give, 500),
		GiveBackP99: at(give, 990),
		Jain:        all * all / (float64(tasks) * squares),
		Client:      micros(spent) / all,
	}
}

type handedOff struct {
	Times []float64 `json:"times"`
	Puts  []float64 `json:"puts"`
}

// handOffs measures from the call of an unlock to the moment at which the waiter knows that it holds, and a put beside each.
func (p *peer) handOffs(samples int, long, writers bool) handedOff {
	const key = "hand-off"
	holder, waiter := p.locker("mutex", 0, key), p.locker("mutex", 1, key)
	floor := p.locker("floor", 2, key)
	if writers {
		enough := make(chan struct{})
		var writing sync.WaitGroup
		writing.Go(func() {
			other := p.locker("floor", 3, "other")
			for {
				select {
				case <-enough:
					return
				default:
					other.take()
				}
			}
		})
		defer writing.Wait()
		defer close(enough)
	}
	var all handedOff
	for sample := range samples {
		pause := time.Duration(sample%8) * time.Millisecond
		if long {
			pause = 300 * time.Millisecond
		}
		holder.take()
		keys := p.count(key)
		granted := make(chan time.Time, 1)
		var waiting sync.WaitGroup
		waiting.Go(func() {
			waiter.take()
			granted <- time.Now()
			waiter.giveBack()
		})
		for p.count(key) <= keys {
		}
		time.Sleep(pause)
		released := time.Now()
		holder.giveBack()
		all.Times = append(all.Times, micros((<-granted).Sub(released)))
		waiting.Wait()
		// After a rest, as before: a machine that has rested answers later.
		time.Sleep(pause)
		asked := time.Now()
		floor.take()
		all.Puts = append(all.Puts, micros(time.Since(asked)))
	}
	return all
}

// count says how many stand in the queue.
func (p *peer) count(key string) int64 {
	found, err := p.client.Get(context.Background(), "go/mutex/"+key+"/",
		clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
	check(err)
	return found.Count
}

// at is the number below which so many of a thousand lie.
func at(numbers []float64, permille int) float64 {
	if len(numbers) == 0 {
		return 0
	}
	slices.Sort(numbers)
	return numbers[(len(numbers)-1)*permille/1000]
}

// cpu is what this process has used of the processor.
func cpu() time.Duration {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func micros(d time.Duration) float64 { return math.Round(float64(d.Nanoseconds())/100) / 10 }
