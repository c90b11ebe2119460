//! A consumer group of HTTP members: how long it takes to share anew when one comes or goes, and how many commits it takes.
//!
//! A rebalance is over when every member has been told of the same new epoch. Members learn of it by their next call, so
//! it is measured twice: with members that call as often as they are told to, and with all of them calling at once, which
//! is what the coordinator itself takes.

use super::{
    Bench, CliError, Topic,
    figure::{Better, Figure, Measure},
    http1::{Connection, request},
    load::{self, Load},
    process::Process,
    report,
};
use crate::sys::Sys;
use futures_util::future::try_join_all;
use serde_json::Value;
use std::{io, time::Duration};
use tokio::time::Instant;

/// Members where nothing else is said.
const MEMBERS: u32 = 100;
/// So that members are told to call every second.
const SESSION_MS: u32 = 3_000;
/// Members that commit say nothing while the bare handler has its turn.
const LONG_SESSION_MS: u32 = 1_800_000;
/// A rebalance that takes longer never ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rebalances of both kinds, and commits.
pub(super) async fn figures(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let (server, bare) = (bench.server().await?, bench.bare().await?);
    let members = bench.args.connections.unwrap_or(MEMBERS);
    let topic = bench.topic(&server, members, &bench.args.flush).await?;
    let mut figures = rebalances(bench, &server, &topic, members).await?;
    figures.push(commits(bench, &server, &bare, &topic, members).await?);
    bench.delete(&server, topic).await?;
    Ok(figures)
}

/// What members share.
struct Seat<'a> {
    group: &'a str,
    topic: &'a str,
    session_ms: u32,
}

/// A member with a connection of its own.
struct Member {
    path: String,
    join: Vec<u8>,
    leave: Vec<u8>,
    connection: Connection,
    epoch: i64,
    stable: bool,
    /// When it is told to call again.
    next: Instant,
    partition: Option<i64>,
}

impl Member {
    async fn new(sys: &Sys, address: &str, seat: &Seat<'_>, number: u32) -> Result<Self, CliError> {
        let path = format!("/v1/groups/{}/members/member-{number}", seat.group);
        let body = format!("{{\"topics\":[\"{}\"],\"session_timeout_ms\":{}}}", seat.topic, seat.session_ms);
        let join = request(address, "PUT", &path, "content-type: application/json\r\n", body.as_bytes());
        let leave = request(address, "DELETE", &path, "", b"");
        let connection = Connection::open(sys, address).await.map_err(|e| failed(&e))?;
        Ok(Self { path, join, leave, connection, epoch: -1, stable: false, next: Instant::now(), partition: None })
    }

    async fn call(&mut self) -> Result<(), CliError> {
        let mut answer = Vec::new();
        let status = self.connection.exchange(&self.join, &mut answer).await.map_err(|e| failed(&e))?;
        let place: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let (Some(epoch), Some(interval), 200) =
            (place["epoch"].as_i64(), place["heartbeat_interval_ms"].as_u64(), status)
        else {
            return Err(CliError::failed(format!("a member was refused: {status} {place}")));
        };
        (self.epoch, self.stable) = (epoch, place["state"] == "stable");
        self.next = Instant::now() + Duration::from_millis(interval);
        self.partition = place["assignment"][0]["partitions"][0].as_i64();
        Ok(())
    }

    async fn leave(&mut self) -> Result<(), CliError> {
        let status = self.connection.exchange(&self.leave, &mut Vec::new()).await.map_err(|e| failed(&e))?;
        (self.epoch, self.stable) = (-1, false);
        if status == 204 { Ok(()) } else { Err(CliError::failed(format!("a member could not leave: {status}"))) }
    }

    /// Calls as it is told to, until it stands in an epoch after this one.
    async fn settle_as_told(&mut self, after: i64) -> Result<(), CliError> {
        while !(self.stable && self.epoch > after) {
            tokio::time::sleep_until(self.next).await;
            self.call().await?;
        }
        Ok(())
    }

    /// Leaves the group if it is in it, and joins it if not. When it did so, and the epoch that ends with it.
    async fn come_or_go(&mut self, others: &[Self]) -> Result<(Instant, i64), CliError> {
        let epoch = others.first().map_or(0, |member| member.epoch);
        let begun = Instant::now();
        if self.epoch >= 0 {
            self.leave().await?;
        } else {
            self.call().await?;
        }
        Ok((begun, epoch))
    }
}

fn failed(error: &io::Error) -> CliError {
    CliError::failed(format!("a member's connection: {error}"))
}

/// All call at once, again and again, until all stand in one epoch after this one.
async fn settle_at_once(members: &mut [Member], after: i64) -> Result<(), CliError> {
    let begun = Instant::now();
    loop {
        try_join_all(members.iter_mut().map(Member::call)).await?;
        let epoch = members.first().map_or(0, |member| member.epoch);
        if epoch > after && members.iter().all(|member| member.stable && member.epoch == epoch) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(CliError::failed("a rebalance does not end"));
        }
    }
}

/// One member goes and comes back, again and again.
async fn rebalances(bench: &Bench, server: &Process, topic: &Topic, count: u32) -> Result<Vec<Figure>, CliError> {
    let figure = |how: &str| Figure::plain(format!("group/{how}/members={count}"), "ms", Better::Lower);
    let (mut at_once, mut as_told) = (figure("rebalance-at-once"), figure("rebalance"));
    let group = format!("{}-rebalance", topic.name);
    let seat = Seat { group: &group, topic: &topic.name, session_ms: SESSION_MS };
    let mut members = Vec::new();
    for number in 0..count {
        members.push(Member::new(&bench.sys, &server.address, &seat, number).await?);
    }
    let mut comer = Member::new(&bench.sys, &server.address, &seat, count).await?;
    report::doing(&format!("{count} members join"));
    settle_at_once(&mut members, -1).await?;
    let time = |begun: Instant| begun.elapsed().as_secs_f64() * 1000.0;
    for round in 0..bench.args.rounds {
        let (begun, epoch) = comer.come_or_go(&members).await?;
        settle_at_once(&mut members, epoch).await?;
        at_once.values.push(time(begun));
        report::progress(round + 1, &at_once);
    }
    if comer.epoch >= 0 {
        comer.leave().await?;
        let epoch = members.first().map_or(0, |member| member.epoch);
        settle_at_once(&mut members, epoch).await?;
    }
    let pace = Duration::from_millis(u64::from(SESSION_MS / 3));
    for round in 0..bench.args.rounds {
        // Each calls at its own time, as members do that know nothing of each other.
        for (n, member) in (0..).zip(&mut members) {
            member.next = Instant::now() + pace * n / count;
        }
        let (begun, epoch) = comer.come_or_go(&members).await?;
        let all = try_join_all(members.iter_mut().map(|member| member.settle_as_told(epoch)));
        tokio::time::timeout(PATIENCE, all).await.map_err(|_| CliError::failed("a rebalance does not end"))??;
        as_told.values.push(time(begun));
        report::progress(round + 1, &as_told);
    }
    as_told.more.push(("heartbeat_ms".to_owned(), pace.as_secs_f64() * 1000.0));
    for member in &mut members {
        member.leave().await?;
    }
    if comer.epoch >= 0 {
        comer.leave().await?;
    }
    bench.ask(server, "DELETE", &format!("/v1/groups/{group}"), "").await?;
    Ok(vec![at_once, as_told])
}

/// Every member commits its partition's offset, again and again.
async fn commits(
    bench: &Bench,
    server: &Process,
    bare: &Process,
    topic: &Topic,
    count: u32,
) -> Result<Figure, CliError> {
    let group = format!("{}-commit", topic.name);
    let seat = Seat { group: &group, topic: &topic.name, session_ms: LONG_SESSION_MS };
    let mut members = Vec::new();
    for number in 0..count {
        members.push(Member::new(&bench.sys, &server.address, &seat, number).await?);
    }
    settle_at_once(&mut members, -1).await?;
    let mut figures = [Figure::new(format!("group/commit/members={count}"), "commits/s", Measure::Rate)
        .with_latency_of("a commit's answer")];
    let places: Vec<_> = members.iter().map(|m| (m.path.clone(), m.epoch, m.partition.unwrap_or(0))).collect();
    let requests = |address: &str, connection: u32| {
        let (path, epoch, partition) = &places[connection as usize];
        let offset = format!("{{\"topic\":\"{}\",\"partition\":{partition},\"offset\":0}}", topic.name);
        let body = format!("{{\"epoch\":{epoch},\"offsets\":[{offset}]}}");
        let path = format!("{path}/commit");
        vec![request(address, "POST", &path, "content-type: application/json\r\n", body.as_bytes())]
    };
    let load = Load { connections: count, per_request: 1, rate: bench.args.rate, tolerant: false };
    let round = async |target: &Process, duration| {
        let requests = |connection| requests(&target.address, connection);
        load::round(&bench.sys, target, &load, &requests, duration).await
    };
    bench.alternate(&mut figures, async |d| round(bare, d).await, async |d| round(server, d).await).await?;
    for member in &mut members {
        member.leave().await?;
    }
    bench.ask(server, "DELETE", &format!("/v1/groups/{group}"), "").await?;
    let [mut figure] = figures;
    figure.more.extend(server.resident_bytes().map(|bytes| ("memory_bytes".to_owned(), bytes as f64)));
    Ok(figure)
}
