// kafkajs under the common protocol; see ../clients.py.
import { createInterface } from 'node:readline'
import * as zstd from '@bokuweb/zstd-wasm'
import * as kafkajs from 'kafkajs'

const { AssignerProtocol, CompressionCodecs, CompressionTypes, Kafka, logLevel, PartitionAssigners, Partitioners } = kafkajs
// eslint-disable-next-line @typescript-eslint/no-require-imports
const lz4 = require('lz4js'), snappy = require('kafkajs-snappy')

CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async ({ buffer }: { buffer: Buffer }) => {
    if (buffer.length > 4 << 20) throw new Error('more than one block')
    // One block depends on no other; lz4js does not say so, and Kafka takes only what says so. The third byte is the
    // checksum of the two before it.
    const frame = Buffer.from(lz4.compress(buffer))
    frame.set([0x60, 0x70, 0x73], 4)
    return frame
  },
  decompress: async (buffer: Buffer) => Buffer.from(lz4.decompress(buffer)),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder: { buffer: Buffer }) => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async (buffer: Buffer) => Buffer.from(zstd.decompress(buffer)),
})
const codecs: Record<string, kafkajs.CompressionTypes> = {
  none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD,
}

type Line = { n: number; topic: string; partition?: number; key?: string; value?: string; timestamp?: number
  headers?: [string, string][]; compression?: string }

const say = (what: object) => process.stdout.write(JSON.stringify(what) + '\n')
const bytes = (text?: string) => (text === undefined ? null : Buffer.from(text, 'base64'))
const [mode, ...pairs] = process.argv.slice(2)
const option = new Map(pairs.map((pair) => pair.split(/=(.*)/s).slice(0, 2) as [string, string]))
const need = (name: string) => {
  const value = option.get(name)
  if (value === undefined) throw new Error(`${name}= is missing`)
  return value
}

const kafka = new Kafka({
  clientId: `kafkajs-${process.pid}`,
  brokers: [need('bootstrap')],
  logLevel: logLevel.NOTHING,
  retry: { initialRetryTime: 100, maxRetryTime: 1_000, retries: 60 },
})

async function produce() {
  const idempotent = option.get('idempotent') === 'true'
  const producer = kafka.producer({
    createPartitioner: Partitioners.DefaultPartitioner,
    idempotent,
    ...(idempotent ? { maxInFlightRequests: 1 } : {}),
    // A refusal is an answer here.
    retry: { initialRetryTime: 100, maxRetryTime: 1_000, retries: idempotent ? 60 : 3 },
  })
  await producer.connect()
  let waiting: Line[] = []
  let open = true
  let wake = () => {}
  const lines = createInterface({ input: process.stdin })
  lines.on('line', (line) => { waiting.push(JSON.parse(line)); wake() })
  lines.on('close', () => { open = false; wake() })
  // One request after the other; what comes meanwhile goes with the next.
  while (open || waiting.length > 0) {
    if (waiting.length === 0) { await new Promise<void>((resolve) => { wake = resolve }); continue }
    const { topic, compression } = waiting[0]!
    let size = 0
    const end = waiting.findIndex((line) => line.topic !== topic || line.compression !== compression ||
      (size += (line.value ?? '').length) > 300_000 && size > (line.value ?? '').length)
    const batch = waiting.splice(0, end < 0 ? waiting.length : end)
    try {
      await producer.send({
        topic, acks: -1, compression: codecs[compression ?? 'none'],
        messages: batch.map((line) => ({
          key: bytes(line.key), value: bytes(line.value), partition: line.partition,
          timestamp: line.timestamp === undefined ? undefined : String(line.timestamp),
          headers: Object.fromEntries((line.headers ?? []).map(([name, value]) => [name, Buffer.from(value, 'base64')])),
        })) as kafkajs.Message[],
      })
      for (const line of batch) say({ n: line.n })
    } catch (error) {
      for (const line of batch) say({ n: line.n, error: String((error as { type?: string }).type ?? error) })
    }
  }
  await producer.disconnect()
}

// The name by which the other clients call the same strategy: a group needs one that all its members know.
const roundrobin: kafkajs.PartitionAssigner = (config) => ({
  ...PartitionAssigners.roundRobin(config),
  name: 'roundrobin',
  protocol: ({ topics }) => ({
    name: 'roundrobin',
    metadata: AssignerProtocol.MemberMetadata.encode({ version: 0, topics, userData: Buffer.alloc(0) }),
  }),
})

async function consume(group: string, count: number) {
  const consumer = kafka.consumer({
    groupId: group, partitionAssigners: [roundrobin], sessionTimeout: 6_000, heartbeatInterval: 500, rebalanceTimeout: 10_000,
    maxWaitTimeInMs: 250, maxBytes: 64 << 20,
  })
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => say({ joined: payload.memberAssignment }))
  await consumer.connect()
  await consumer.subscribe({ topics: need('topic').split(','), fromBeginning: true })
  let stop = () => {}
  const stopped = new Promise<void>((resolve) => { stop = resolve })
  process.on('SIGTERM', stop)
  let left = count
  await consumer.run({
    autoCommitInterval: 300,
    eachMessage: async ({ topic, partition, message }) => {
      const headers = Object.entries(message.headers ?? {})
        .flatMap(([name, value]) => (Array.isArray(value) ? value : [value]).map((one) => [name, Buffer.from(one ?? '').toString('base64')]))
      say({
        topic, partition, offset: Number(message.offset), timestamp: Number(message.timestamp), headers,
        key: message.key?.toString('base64'), value: message.value?.toString('base64'),
      })
      left -= 1
      if (left <= 0) stop()
    },
  })
  await stopped
  await consumer.disconnect()
  process.stdout.write('', () => process.exit(0))
}

const main = async () => {
  await zstd.init()
  if (mode === 'produce') return produce()
  if (mode === 'consume') return consume(`kafkajs-${process.pid}-${Date.now()}`, Number(need('count')))
  if (mode === 'member') return consume(need('group'), Infinity)
  throw new Error(`no such mode: ${mode}`)
}
main().catch((error) => { console.error(error); process.exit(1) })
