// Reads what producer.ts wrote: npx ts-node consumer.ts [BROKER] [COUNT]; ends after COUNT messages.
import { Kafka } from 'kafkajs'

const kafka = new Kafka({
  clientId: 'my-app',
  brokers: [process.argv[2] ?? 'localhost:9092'],
})

const consumer = kafka.consumer({ groupId: 'test-group' })

const run = async () => {
  let left = Number(process.argv[3] ?? Infinity)
  await consumer.connect()
  await consumer.subscribe({ topic: 'my_topic', fromBeginning: true })
  await consumer.run({
    eachMessage: async ({ topic, partition, message }) => {
      console.log(`${topic} ${partition} ${message.offset} ${message.key}=${message.value}`)
      left -= 1
      if (left === 0) setTimeout(() => consumer.disconnect(), 0)
    },
  })
}

run().catch((error) => {
  console.error(error)
  process.exit(1)
})
