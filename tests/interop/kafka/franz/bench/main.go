// The lean client of ../../../bench-kafka: what a broker does with as little of the client's own work as franz-go needs.
//
//	bench create  bootstrap= topic= partitions= [NAME=VALUE…]      a topic; the rest is its configuration
//	bench delete  bootstrap= topic=
//	bench produce bootstrap= topic= size= seconds= [codec=]        as fast as it goes
//	bench rate    bootstrap= topic= size= seconds= rate=           in open loop: latency counts from when a record was due
//	bench batches bootstrap= topic= size= seconds= partitions=     batches of 1,000 made before, several in flight: the wire alone
//	bench consume bootstrap= topic= seconds=                       from the start, as fast as it goes, to the end or the time
//
// Each prints one JSON object.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var options = map[string]string{}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(name string) int {
	value, err := strconv.Atoi(options[name])
	check(err)
	return value
}

func say(what map[string]any) { check(json.NewEncoder(os.Stdout).Encode(what)) }

func client(more ...kgo.Opt) *kgo.Client {
	made, err := kgo.NewClient(append(more, kgo.SeedBrokers(options["bootstrap"]), kgo.DefaultProduceTopic(options["topic"]))...)
	check(err)
	return made
}

var known = []string{"bootstrap", "topic", "partitions", "size", "seconds", "rate", "codec"}

func create() {
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = options["topic"], int32(number("partitions")), 1
	for name, value := range options {
		if !slices.Contains(known, name) {
			config := kmsg.NewCreateTopicsRequestTopicConfig()
			config.Name, config.Value = name, kmsg.StringPtr(value)
			topic.Configs = append(topic.Configs, config)
		}
	}
	request := kmsg.NewPtrCreateTopicsRequest()
	request.Topics, request.TimeoutMillis = append(request.Topics, topic), 30_000
	response, err := request.RequestWith(context.Background(), client())
	check(err)
	check(kerr.ErrorForCode(response.Topics[0].ErrorCode))
	say(map[string]any{"created": options["topic"]})
}

func remove() {
	topic := kmsg.NewDeleteTopicsRequestTopic()
	topic.Topic = kmsg.StringPtr(options["topic"])
	request := kmsg.NewPtrDeleteTopicsRequest()
	request.Topics, request.TopicNames = append(request.Topics, topic), []string{options["topic"]}
	request.TimeoutMillis = 30_000
	response, err := request.RequestWith(context.Background(), client())
	check(err)
	check(kerr.ErrorForCode(response.Topics[0].ErrorCode))
	say(map[string]any{"deleted": options["topic"]})
}

// Values that compress about as far as JSON does: half of each is random.
func values(size int) [][]byte {
	source := rand.New(rand.NewSource(1))
	pool := make([][]byte, 512)
	for i := range pool {
		pool[i] = make([]byte, size)
		for at := range pool[i] {
			pool[i][at] = "0123456789abcdef"[source.Intn(16)]
			if at%32 < 12 {
				pool[i][at] = `{"match":"1","at"`[at%32]
			}
		}
	}
	return pool
}

var codecs = map[string]kgo.CompressionCodec{
	"": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(),
	"zstd": kgo.ZstdCompression(),
}

func produce() {
	producer := client(kgo.ProducerBatchCompression(codecs[options["codec"]]), kgo.MaxBufferedRecords(50_000),
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(64<<10, true, true, nil)))
	pool, stored := values(number("size")), atomic.Int64{}
	warm(producer, pool[0])
	started := time.Now()
	end := started.Add(time.Duration(number("seconds")) * time.Second)
	for n := 0; ; n++ {
		if n%256 == 0 && time.Now().After(end) {
			break
		}
		producer.Produce(context.Background(), &kgo.Record{Value: pool[n%len(pool)]}, func(_ *kgo.Record, err error) {
			check(err)
			stored.Add(1)
		})
	}
	check(producer.Flush(context.Background()))
	say(map[string]any{"records": stored.Load(), "seconds": time.Since(started).Seconds()})
}

// The first record pays for connections and the producer id.
func warm(producer *kgo.Client, value []byte) {
	check(producer.ProduceSync(context.Background(), &kgo.Record{Value: value}).FirstErr())
}

// Go's own timers go by the millisecond when nothing else is to do, which is longer than most answers take.
func pause(wait time.Duration) {
	time := syscall.NsecToTimespec(wait.Nanoseconds())
	_ = syscall.Nanosleep(&time, nil) // woken early is as good
}

func rate() {
	producer := client(kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(1_000_000))
	pool := values(number("size"))
	warm(producer, pool[0])
	perSecond, seconds := number("rate"), number("seconds")
	var lock sync.Mutex
	latencies := make([]float64, 0, perSecond*seconds)
	started := time.Now()
	for n := range perSecond * seconds {
		due := started.Add(time.Duration(n) * time.Second / time.Duration(perSecond))
		if wait := time.Until(due); wait > 50*time.Microsecond {
			pause(wait)
		}
		producer.Produce(context.Background(), &kgo.Record{Value: pool[n%len(pool)]}, func(_ *kgo.Record, err error) {
			check(err)
			lock.Lock()
			latencies = append(latencies, time.Since(due).Seconds()*1000)
			lock.Unlock()
		})
	}
	check(producer.Flush(context.Background()))
	elapsed := time.Since(started).Seconds()
	slices.Sort(latencies)
	at := func(share float64) float64 {
		return latencies[min(len(latencies)-1, int(share*float64(len(latencies))))]
	}
	say(map[string]any{"records": len(latencies), "seconds": elapsed, "p50": at(0.5), "p90": at(0.9), "p99": at(0.99),
		"p999": at(0.999), "max": at(1)})
}

func consume() {
	consumer := client(kgo.ConsumeTopics(options["topic"]), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxPartitionBytes(4<<20))
	records, bytes, empty := 0, 0, 0
	started := time.Now()
	end := started.Add(time.Duration(number("seconds")) * time.Second)
	last := started
	for time.Now().Before(end) && empty < 3 {
		within, cancel := context.WithTimeout(context.Background(), time.Second)
		fetches := consumer.PollFetches(within)
		cancel()
		if fetches.Empty() {
			empty++
			continue
		}
		empty = 0
		fetches.EachRecord(func(r *kgo.Record) { records++; bytes += len(r.Value) })
		last = time.Now()
	}
	say(map[string]any{"records": records, "bytes": bytes, "seconds": last.Sub(started).Seconds()})
}

// A whole batch of 1,000 records, as a producer would make it.
func batch(pool [][]byte) []byte {
	var records []byte
	for n := range 1000 {
		record := kmsg.Record{OffsetDelta: int32(n), Value: pool[n%len(pool)]}
		body := record.AppendTo(nil)[1:] // without the length, which is 0 here and so one byte
		records = binary.AppendVarint(records, int64(len(body)))
		records = append(records, body...)
	}
	now := time.Now().UnixMilli()
	made := kmsg.RecordBatch{
		Length: int32(49 + len(records)), PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: 999, FirstTimestamp: now,
		MaxTimestamp: now, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 1000, Records: records,
	}
	bytes := made.AppendTo(nil)
	binary.BigEndian.PutUint32(bytes[17:], crc32.Checksum(bytes[21:], crc32.MakeTable(crc32.Castagnoli)))
	return bytes
}

// Four connections with three requests in flight each, one batch a request.
func batches() {
	records, stored := batch(values(number("size"))), atomic.Int64{}
	partitions, turn := number("partitions"), atomic.Int32{}
	// Each has its leader once it took a record.
	ready := client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for n := range partitions {
		check(ready.ProduceSync(context.Background(), &kgo.Record{Partition: int32(n), Value: records[:1]}).FirstErr())
	}
	var workers sync.WaitGroup
	started := time.Now()
	end := started.Add(time.Duration(number("seconds")) * time.Second)
	for range 4 {
		connection, err := net.Dial("tcp", options["bootstrap"])
		check(err)
		places := make(chan struct{}, 3)
		workers.Go(func() {
			defer close(places)
			for id := int32(0); time.Now().Before(end); id++ {
				request := kmsg.NewPtrProduceRequest()
				request.Version, request.Acks, request.TimeoutMillis = 9, -1, 30_000
				partition := kmsg.NewProduceRequestTopicPartition()
				partition.Partition = turn.Add(1) % int32(partitions)
				// The batch is the last field before three empty lists of tags: what comes before it is small, and it is not copied.
				partition.Records = []byte{0}
				topic := kmsg.NewProduceRequestTopic()
				topic.Topic, topic.Partitions = options["topic"], append(topic.Partitions, partition)
				request.Topics = append(request.Topics, topic)
				front := kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, request, id)
				front = front[:len(front)-5] // the length and byte that stand for the batch, and the tags
				front = binary.AppendUvarint(front, uint64(len(records)+1))
				tail := []byte{0, 0, 0}
				binary.BigEndian.PutUint32(front, uint32(len(front)+len(records)+len(tail)-4))
				places <- struct{}{}
				buffers := net.Buffers{front, records, tail}
				_, err := buffers.WriteTo(connection)
				check(err)
			}
		})
		workers.Go(func() {
			for range places {
				var length [4]byte
				_, err := io.ReadFull(connection, length[:])
				check(err)
				answer := make([]byte, binary.BigEndian.Uint32(length[:]))
				_, err = io.ReadFull(connection, answer)
				check(err)
				response := kmsg.NewPtrProduceResponse()
				response.Version = 9
				check(response.ReadFrom(answer[5:])) // the correlation id, and no tags
				check(kerr.ErrorForCode(response.Topics[0].Partitions[0].ErrorCode))
				stored.Add(1000)
			}
		})
	}
	workers.Wait()
	say(map[string]any{"records": stored.Load(), "seconds": time.Since(started).Seconds()})
}

func main() {
	for _, pair := range os.Args[2:] {
		name, value, _ := strings.Cut(pair, "=")
		options[name] = value
	}
	map[string]func(){"create": create, "delete": remove, "produce": produce, "rate": rate, "consume": consume, "batches": batches}[os.Args[1]]()
}
