// franz-go under the common protocol; see ../clients.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Line is a record as both sides of the protocol write it; []byte is base64 in JSON.
type Line struct {
	N           *int        `json:"n,omitempty"`
	Topic       string      `json:"topic,omitempty"`
	Partition   *int32      `json:"partition,omitempty"`
	Offset      *int64      `json:"offset,omitempty"`
	Timestamp   *int64      `json:"timestamp,omitempty"`
	Key         *[]byte     `json:"key,omitempty"`
	Value       *[]byte     `json:"value,omitempty"`
	Headers     [][2]string `json:"headers,omitempty"`
	Compression string      `json:"compression,omitempty"`
	Error       string      `json:"error,omitempty"`
}

var (
	options = map[string]string{}
	out     sync.Mutex
	encoder = json.NewEncoder(os.Stdout)
)

func say(what any) {
	out.Lock()
	defer out.Unlock()
	check(encoder.Encode(what))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func pointer(bytes []byte) *[]byte {
	if bytes == nil {
		return nil
	}
	return &bytes
}

func raw(bytes *[]byte) []byte {
	switch {
	case bytes == nil:
		return nil
	case *bytes == nil:
		return []byte{}
	}
	return *bytes
}

func unbase64(text string) []byte {
	var bytes []byte
	check(json.Unmarshal([]byte(strconv.Quote(text)), &bytes))
	return bytes
}

func base64(bytes []byte) string {
	text, err := json.Marshal(bytes)
	check(err)
	return strings.Trim(string(text), `"`)
}

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// The recorder partitions by key as Java does, or keeps the partition that a line names.
type partitioner struct{ byKey kgo.Partitioner }
type topicPartitioner struct{ byKey kgo.TopicPartitioner }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return topicPartitioner{p.byKey.ForTopic(topic)}
}
func (p topicPartitioner) RequiresConsistency(r *kgo.Record) bool { return true }
func (p topicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Partition >= 0 {
		return int(r.Partition)
	}
	return p.byKey.Partition(r, n)
}

func produce() {
	clients := map[string]*kgo.Client{}
	client := func(compression string) *kgo.Client {
		if clients[compression] == nil {
			how := []kgo.Opt{
				kgo.SeedBrokers(options["bootstrap"]),
				kgo.ProducerBatchCompression(codecs[compression]),
				kgo.ProducerLinger(5 * time.Millisecond),
				kgo.ProducerBatchMaxBytes(64 << 20),
				kgo.BrokerMaxWriteBytes(100 << 20),
				kgo.RecordPartitioner(partitioner{kgo.StickyKeyPartitioner(nil)}),
				kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
			}
			if options["idempotent"] != "true" {
				how = append(how, kgo.DisableIdempotentWrite(), kgo.RecordRetries(100))
			}
			made, err := kgo.NewClient(how...)
			check(err)
			clients[compression] = made
		}
		return clients[compression]
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var line Line
		check(json.Unmarshal(lines.Bytes(), &line))
		record := &kgo.Record{Topic: line.Topic, Partition: -1, Key: raw(line.Key), Value: raw(line.Value)}
		if line.Partition != nil {
			record.Partition = *line.Partition
		}
		if line.Timestamp != nil {
			record.Timestamp = time.UnixMilli(*line.Timestamp)
		}
		for _, header := range line.Headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: header[0], Value: unbase64(header[1])})
		}
		if line.Compression == "" {
			line.Compression = "none"
		}
		client(line.Compression).Produce(context.Background(), record, func(r *kgo.Record, err error) {
			answer := Line{N: line.N}
			var refused *kerr.Error
			switch {
			case errors.As(err, &refused):
				answer.Error = refused.Message
			case err != nil:
				answer.Error = err.Error()
			default:
				answer.Partition, answer.Offset = &r.Partition, &r.Offset
			}
			say(answer)
		})
	}
	check(lines.Err())
	for _, one := range clients {
		check(one.Flush(context.Background()))
		one.Close()
	}
}

func consume(group string, count int) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	how := []kgo.Opt{
		kgo.SeedBrokers(options["bootstrap"]),
		kgo.ConsumeTopics(strings.Split(options["topic"], ",")...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(250 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
	}
	if group != "" {
		how = append(how, kgo.ConsumerGroup(group), kgo.Balancers(kgo.RoundRobinBalancer()),
			kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(500*time.Millisecond),
			kgo.RebalanceTimeout(10*time.Second), kgo.AutoCommitInterval(300*time.Millisecond),
			// Only what was shown is committed, and no rebalance comes between the two.
			kgo.AutoCommitMarks(), kgo.BlockRebalanceOnPoll(),
			kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
				say(map[string]any{"joined": assigned})
			}),
		)
	}
	client, err := kgo.NewClient(how...)
	check(err)
	defer client.Close()
	for count > 0 && ctx.Err() == nil {
		fetches := client.PollRecords(ctx, 500)
		fetches.EachRecord(func(r *kgo.Record) {
			if count <= 0 {
				return
			}
			count--
			timestamp := r.Timestamp.UnixMilli()
			line := Line{Topic: r.Topic, Partition: &r.Partition, Offset: &r.Offset, Timestamp: &timestamp,
				Key: pointer(r.Key), Value: pointer(r.Value)}
			for _, header := range r.Headers {
				line.Headers = append(line.Headers, [2]string{header.Key, base64(header.Value)})
			}
			say(line)
		})
		if group != "" {
			client.MarkCommitRecords(fetches.Records()...)
			client.AllowRebalance()
		}
	}
	if group != "" {
		last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = client.CommitMarkedOffsets(last)
	}
}

func main() {
	for _, pair := range os.Args[2:] {
		name, value, _ := strings.Cut(pair, "=")
		options[name] = value
	}
	switch os.Args[1] {
	case "produce":
		produce()
	case "consume":
		count, err := strconv.Atoi(options["count"])
		check(err)
		consume("", count)
	case "member":
		consume(options["group"], 1<<60)
	default:
		check(fmt.Errorf("no such mode: %s", os.Args[1]))
	}
}
