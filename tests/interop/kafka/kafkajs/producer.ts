// Keyed messages from TypeScript, as kafkajs' front page does it: npx ts-node producer.ts [BROKER]
import { Kafka, Partitioners } from 'kafkajs'

const kafka = new Kafka({
  clientId: 'my-app',
  brokers: [process.argv[2] ?? 'localhost:9092'],
})

const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })

const run = async () => {
  await producer.connect()
  await producer.send({
    topic: 'my_topic',
    messages: [
      { key: 'user-1', value: JSON.stringify({ action: 'login' }) },
      { key: 'user-2', value: JSON.stringify({ action: 'logout' }) },
    ],
  })
  await producer.disconnect()
}

run().catch((error) => {
  console.error(error)
  process.exit(1)
})
