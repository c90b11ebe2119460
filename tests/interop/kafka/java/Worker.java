// Apache Kafka's own Java client under the common protocol; see ../clients.py.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Worker {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Map<String, String> OPTIONS = new HashMap<>();

    private static synchronized void say(JsonNode line) {
        System.out.println(line);
        System.out.flush();
    }

    private static Properties common() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", OPTIONS.get("bootstrap"));
        properties.put("reconnect.backoff.max.ms", "500");
        return properties;
    }

    private static byte[] raw(JsonNode line, String name) {
        return line.has(name) ? Base64.getDecoder().decode(line.get(name).asText()) : null;
    }

    private static KafkaProducer<byte[], byte[]> producer(String compression) {
        Properties properties = common();
        properties.put("compression.type", compression);
        properties.put("enable.idempotence", OPTIONS.getOrDefault("idempotent", "false"));
        properties.put("max.request.size", "" + (64 << 20));
        properties.put("linger.ms", "5");
        properties.put("request.timeout.ms", "10000");
        properties.put("delivery.timeout.ms", "60000");
        return new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private static void produce() throws Exception {
        Map<String, KafkaProducer<byte[], byte[]>> producers = new HashMap<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String text = lines.readLine(); text != null; text = lines.readLine()) {
            JsonNode line = JSON.readTree(text);
            Integer partition = line.has("partition") ? line.get("partition").asInt() : null;
            Long timestamp = line.has("timestamp") ? line.get("timestamp").asLong() : null;
            ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(
                line.get("topic").asText(), partition, timestamp, raw(line, "key"), raw(line, "value"));
            for (JsonNode header : line.withArray("/headers")) {
                record.headers().add(new RecordHeader(header.get(0).asText(), Base64.getDecoder().decode(header.get(1).asText())));
            }
            String compression = line.has("compression") ? line.get("compression").asText() : "none";
            producers.computeIfAbsent(compression, Worker::producer).send(record, (metadata, error) -> {
                ObjectNode answer = JSON.createObjectNode().put("n", line.get("n").asInt());
                if (error != null) {
                    answer.put("error", error.getClass().getSimpleName() + ": " + error.getMessage());
                } else {
                    answer.put("partition", metadata.partition()).put("offset", metadata.offset());
                }
                say(answer);
            });
        }
        producers.values().forEach(KafkaProducer::close);
    }

    private static void show(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode line = JSON.createObjectNode().put("topic", record.topic()).put("partition", record.partition())
            .put("offset", record.offset()).put("timestamp", record.timestamp());
        ArrayNode headers = line.putArray("headers");
        for (Header header : record.headers()) {
            headers.addArray().add(header.key()).add(header.value());
        }
        if (record.key() != null) line.put("key", record.key());
        if (record.value() != null) line.put("value", record.value());
        say(line);
    }

    private static void consume(String group, long count) {
        Properties properties = common();
        properties.put("group.id", group);
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        properties.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.RoundRobinAssignor");
        properties.put("session.timeout.ms", "6000");
        properties.put("heartbeat.interval.ms", "500");
        properties.put("fetch.max.wait.ms", "250");
        KafkaConsumer<byte[], byte[]> consumer =
            new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                main.join(10_000);
            } catch (InterruptedException ended) {
                // It is over anyway.
            }
        }));
        consumer.subscribe(List.of(OPTIONS.get("topic").split(",")), new ConsumerRebalanceListener() {
            @Override
            public void onPartitionsRevoked(Collection<TopicPartition> gone) {
            }

            @Override
            public void onPartitionsAssigned(Collection<TopicPartition> assigned) {
                ObjectNode line = JSON.createObjectNode();
                ObjectNode joined = line.putObject("joined");
                assigned.forEach(one -> joined.withArray("/" + one.topic()).add(one.partition()));
                say(line);
            }
        });
        try {
            while (count > 0) {
                Map<TopicPartition, OffsetAndMetadata> shown = new HashMap<>();
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(300))) {
                    if (count-- <= 0) break;
                    show(record);
                    shown.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
                }
                if (!shown.isEmpty()) consumer.commitAsync(shown, null);
            }
        } catch (WakeupException asked) {
            // SIGTERM: leave.
        }
        consumer.close();
    }

    public static void main(String[] arguments) throws Exception {
        for (int at = 1; at < arguments.length; at++) {
            String[] pair = arguments[at].split("=", 2);
            OPTIONS.put(pair[0], pair[1]);
        }
        switch (arguments[0]) {
            case "produce" -> produce();
            case "consume" -> consume("java-" + UUID.randomUUID(), Long.parseLong(OPTIONS.get("count")));
            case "member" -> consume(OPTIONS.get("group"), Long.MAX_VALUE);
            default -> throw new IllegalArgumentException("no such mode: " + arguments[0]);
        }
    }
}
