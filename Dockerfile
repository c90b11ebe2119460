# syntax=docker/dockerfile:1

# ---- build ----------------------------------------------------------------------------------------------------------
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches are kept between builds on one machine; the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin sluice \
    && install -D -m 0755 target/release/sluice /out/usr/local/bin/sluice \
    && install -d -m 0750 /out/var/lib/sluice

# ---- run ------------------------------------------------------------------------------------------------------------
FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="Sluice" \
      org.opencontainers.image.description="A streaming gateway in one binary: a partitioned log with a web-native front door" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /out/usr/local/bin/sluice /usr/local/bin/sluice
COPY --from=build --chown=65532:65532 /out/var/lib/sluice /var/lib/sluice

# A number, so that `runAsNonRoot` can check it. Nothing outside the volume is written: run it with --read-only.
USER 65532:65532
WORKDIR /var/lib/sluice
VOLUME /var/lib/sluice

# Inside a container the outside is the network's to guard; on a machine the default is loopback alone.
ENV SLUICE_HTTP=0.0.0.0:8080 \
    SLUICE_KAFKA=0.0.0.0:9092 \
    SLUICE_DATA=/var/lib/sluice \
    SLUICE_LOG_FORMAT=json
EXPOSE 8080 9092

# The binary asks its own server, so the image needs no other program.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/sluice", "topic", "list", "--url", "http://127.0.0.1:8080"]

# SIGTERM drains; give it longer than the drain takes: docker stop --time 35.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sluice"]
CMD ["serve"]
