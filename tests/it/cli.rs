//! The program as people run it: what it prints, how it ends, what it leaves behind.

use crate::harness::{PATIENCE, Server};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The program, without settings of whoever runs the tests.
fn sluice(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLUICE_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it against a server, with this on stdin, to its end.
fn run(server: &Server, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = sluice(arguments);
    command.env("SLUICE_URL", format!("http://{}", server.http()));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it is our child");
    let _ = writer.join().expect("the writer does not panic"); // a command that reads no input closes it
    output
}

fn status(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_produced_is_consumed() {
    let server = Server::start().await;
    let made = run(&server, &["topic", "create", "lines", "--partitions", "4", "-o", "json"], b"");
    assert_eq!(status(&made), Some(0), "{made:?}");
    assert_eq!(serde_json::from_slice::<Value>(&made.stdout).expect("a JSON line")["name"], "lines");

    let mut input = Vec::new();
    for n in 0..5000 {
        input.extend_from_slice(format!("key-{}:{n} ä {{}}\n", n % 7).as_bytes());
    }
    input.extend_from_slice(b"key-0:\xff\x00not text\n");
    let arguments = ["produce", "lines", "--key-separator", ":", "--batch", "100", "-o", "json"];
    let produced = run(&server, &arguments, &input);
    assert_eq!(status(&produced), Some(0), "{produced:?}");
    assert_eq!(serde_json::from_slice::<Value>(&produced.stdout).expect("a JSON line")["stored"], 5001);

    let consumed = run(&server, &["consume", "lines", "--key-separator", ":"], b"");
    assert_eq!(status(&consumed), Some(0), "{}", text(&consumed.stderr));
    // Each key's lines come in their order, though the keys lie in several partitions and went in several lanes.
    let of_key = |bytes: &[u8], key: &str| -> Vec<Vec<u8>> {
        let start = format!("{key}:").into_bytes();
        bytes.split(|b| *b == b'\n').filter(|line| line.starts_with(&start)).map(<[u8]>::to_vec).collect()
    };
    for key in 0..7 {
        let key = format!("key-{key}");
        assert_eq!(of_key(&consumed.stdout, &key), of_key(&input, &key), "{key}");
    }

    // What is printed as JSON can be sent on, to a topic with another number of partitions.
    let json = run(&server, &["consume", "lines", "-o", "json"], b"");
    let absent = run(&server, &["consume", "copy"], b"");
    assert_eq!(status(&absent), Some(1), "the topic is not there: {absent:?}");
    assert!(text(&absent.stderr).contains("sluice topic create"), "{absent:?}");
    run(&server, &["topic", "create", "copy", "--partitions", "1"], b"");
    let copied = run(&server, &["produce", "copy", "--ndjson"], &json.stdout);
    assert_eq!(status(&copied), Some(0), "{copied:?}");
    let arguments = ["consume", "copy", "--key", "key-3", "--key-separator", ":"];
    let one_key = run(&server, &arguments, b"");
    assert_eq!(of_key(&one_key.stdout, "key-3"), of_key(&input, "key-3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_before_a_bad_line_is_stored() {
    let server = Server::start().await;
    run(&server, &["topic", "create", "t", "--partitions", "1"], b"");
    let produced = run(&server, &["produce", "t", "--key-separator", "="], b"a=1\nb=2\nnothing\nc=3\n");
    assert_eq!(status(&produced), Some(1));
    assert!(text(&produced.stderr).contains("line 3"), "{produced:?}");
    assert_eq!(text(&run(&server, &["consume", "t"], b"").stdout), "1\n2\n");
}

/// Ends it when the test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_goes_on_where_it_was_after_the_server_restarted() {
    let server = Server::start().await;
    let topic = json!({"name": "live", "partitions": 1});
    assert_eq!(server.client().post_json("/v1/topics", &topic).await.status, 201);
    let address = server.http().to_owned();
    let mut command = sluice(&["consume", "live", "--follow", "--from", "earliest", "--limit", "40"]);
    command.env("SLUICE_URL", format!("http://{address}")).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut follower = Running(command.spawn().expect("the program was built"));
    let lines = BufReader::new(follower.0.stdout.take().expect("it is piped")).lines();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));

    let numbers = |range: std::ops::Range<u32>| range.map(|n| format!("{n}\n")).collect::<String>();
    assert_eq!(status(&run(&server, &["produce", "live"], numbers(0..20).as_bytes())), Some(0));
    let mut seen = Vec::new();
    let patience = |seen: &[String]| format!("only {} came", seen.len());
    while seen.len() < 20 {
        let line = tokio::time::timeout(PATIENCE, received.recv()).await.ok().flatten();
        seen.push(line.unwrap_or_else(|| panic!("{}", patience(&seen))));
    }
    // The same port again, which the follower knows.
    let folder = server.kill9();
    let server = Server::start_in(folder, &["--http", &address]).await;
    assert_eq!(status(&run(&server, &["produce", "live"], numbers(20..40).as_bytes())), Some(0));
    while seen.len() < 40 {
        let line = tokio::time::timeout(PATIENCE, received.recv()).await.ok().flatten();
        seen.push(line.unwrap_or_else(|| panic!("{}", patience(&seen))));
    }
    assert_eq!(seen, numbers(0..40).lines().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_status_says_what_was_wrong() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let end = |arguments: &[&str]| {
        let output = sluice(arguments).output().expect("the program was built");
        assert!(output.stdout.is_empty(), "messages are no data: {output:?}");
        (status(&output), text(&output.stderr))
    };
    let serve = |data: &str| end(&["--http", "127.0.0.1:0", "--kafka", "off", "--peer", "off", "--data", data]);

    assert_eq!(end(&["frobnicate"]).0, Some(2));
    assert_eq!(end(&["--flush", "never"]).0, Some(2));
    std::fs::write(path("s.toml"), "htpp = 'off'\n").expect("the folder is ours");
    let (code, stderr) = end(&["--config", &path("s.toml")]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("s.toml:1") && stderr.contains("'http'"), "{stderr}");

    std::fs::create_dir(path("foreign")).expect("the folder is ours");
    std::fs::write(path("foreign/letter.txt"), "x").expect("the folder is ours");
    assert_eq!(serve(&path("foreign")).0, Some(3));
    assert_eq!(std::fs::read(path("foreign/letter.txt")).expect("it is still there"), b"x");
    assert_eq!(end(&["doctor", "--data", &path("foreign")]).0, Some(3));
    // A file where a folder has to be: nobody can write there, not even root.
    assert_eq!(serve(&path("s.toml")).0, Some(3));

    let server = Server::start().await;
    let data = server.data().to_string_lossy().into_owned();
    let (code, stderr) = serve(&data);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("in use"), "{stderr}");
    assert_eq!(end(&["doctor", "--data", &data]).0, Some(3));
    let taken = server.http().to_owned();
    let arguments = ["--http", &taken, "--kafka", "off", "--peer", "off", "--data", &path("fresh")];
    let (code, stderr) = end(&arguments);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("--http"), "{stderr}");

    // Data of a version to come.
    let (_, kept) = server.terminate().await;
    let meta = kept.path().join("data/meta");
    let mut bytes = std::fs::read(&meta).expect("a formatted folder has it");
    bytes[8] += 1;
    std::fs::write(&meta, &bytes).expect("the folder is ours");
    assert_eq!(serve(&data).0, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_stop_drains_and_leaves_clean_data() {
    let server = Server::start().await;
    assert_eq!(server.ready()["node_id"], 1);
    assert_eq!(server.ready()["pid"], server.pid());
    run(&server, &["topic", "create", "t", "--partitions", "2"], b"");
    assert_eq!(status(&run(&server, &["produce", "t"], b"a\nb\nc\n")), Some(0));
    let (exit, folder) = server.terminate().await;
    assert_eq!(exit.code(), Some(0));
    assert!(!folder.path().join("ready.json").exists(), "the ready-file goes with the server");

    let data = folder.path().join("data").to_string_lossy().into_owned();
    let doctor = sluice(&["doctor", "--data", &data, "-o", "json"]).output().expect("the program was built");
    assert_eq!(status(&doctor), Some(0), "{doctor:?}");
    let lines = text(&doctor.stdout);
    let partitions: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
    assert_eq!(partitions.len(), 2, "{lines}");
    assert!(partitions.iter().all(|p| p["state"] == "well"), "{lines}");
    assert_eq!(partitions.iter().filter_map(|p| p["records"].as_i64()).sum::<i64>(), 3, "{lines}");
    assert!(partitions.iter().all(|p| p["topic"] == "t"), "{lines}");

    // One bit, in a batch that was acknowledged.
    let topics = folder.path().join("data/topics");
    let segments = std::fs::read_dir(topics).unwrap().map(|e| e.unwrap().path().join("00000000000000000000.log"));
    let segment =
        segments.filter(|p| std::fs::metadata(p).is_ok_and(|m| m.len() > 0)).min().expect("a log with records");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[65] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let doctor = sluice(&["doctor", "--data", &data]).output().expect("the program was built");
    assert_eq!(status(&doctor), Some(1), "{doctor:?}");
    assert!(text(&doctor.stdout).contains("damaged"), "{doctor:?}");
    assert!(text(&doctor.stderr).contains("00000000000000000000.log"), "the file is named: {doctor:?}");
}

/// A supervisor only sees the process: one that can not change anything any more must not look alive.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_metadata_can_not_be_written_ends_with_status_1() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let ready = folder.path().join("ready.json");
    let of = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let mut server = Command::new("sh")
        // Files may grow to a few MiB, and a write past that is an error instead of the signal's end.
        .args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_sluice")])
        .args(["serve", "--http", "127.0.0.1:0", "--kafka", "off", "--peer", "off", "--data", &of("data")])
        .args(["--ready-file", &of("ready.json")])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is a shell");
    let deadline = std::time::Instant::now() + PATIENCE;
    let ended = async {
        while !ready.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let ready: Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
        let client = crate::harness::Client::new(&format!("http://{}", ready["http"].as_str().unwrap()));
        assert_eq!(client.post_json("/v1/topics", &json!({"name": "t"})).await.status, 201);
        // Each goes into the metadata's log as it was written.
        let change = json!({"config": {"retention.ms": format!("{}1", "0".repeat(900_000))}});
        let body = change.to_string();
        let headers = [("content-type", "application/json")];
        loop {
            let change = client.try_request(hyper::Method::PATCH, "/v1/topics/t", &headers, body.clone()).await;
            match change {
                Some(reply) if reply.status < 300 => {}
                other => break other.map_or(0, |reply| reply.status),
            }
        }
    };
    let refusal: u16 = tokio::time::timeout(PATIENCE, ended).await.expect("the limit is reached soon");
    assert!(refusal == 0 || refusal >= 500, "{refusal}");
    let status = loop {
        if let Some(status) = server.try_wait().expect("it is our child") {
            break status;
        }
        assert!(std::time::Instant::now() < deadline, "it goes on, and can do nothing");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut server.stderr.take().expect("it is piped"), &mut stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("could not go on") && stderr.contains("metadata log"), "{stderr}");
    assert!(!ready.exists(), "the ready-file goes with the server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_can_not_read_says_so_once_and_leaves_nothing_behind() {
    let server = Server::start().await;
    let typo = run(&server, &["consume", "no-such-topic", "--group", "g"], b"");
    assert_eq!(status(&typo), Some(1), "{typo:?}");
    assert!(text(&typo.stderr).contains("there is no topic 'no-such-topic'"), "{typo:?}");
    run(&server, &["topic", "create", "t"], b"");
    let bad = run(&server, &["consume", "t", "--group", "a/b"], b"");
    assert_eq!((status(&bad), text(&bad.stderr).matches("the name contains '/'").count()), (Some(1), 1), "{bad:?}");
    let groups = run(&server, &["group", "list", "-o", "json"], b"");
    assert_eq!((status(&groups), text(&groups.stdout)), (Some(0), String::new()), "{groups:?}");
}

/// A worker whose command writes a number to `file` and goes on; gives it and the number, once that is written.
fn worker(server: &Server, command: &str, file: &Path) -> (Child, String) {
    let command = command.replace("FILE", &file.to_string_lossy());
    let mut worker = sluice(&["queue", "work", "work", "--exec", &command])
        .env("SLUICE_URL", format!("http://{}", server.http()))
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built");
    for _ in 0..PATIENCE.as_millis() / 10 {
        if let Ok(number) = std::fs::read_to_string(file)
            && number.ends_with('\n')
        {
            return (worker, number.trim().to_owned());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let _ = worker.kill();
    panic!("the command did not begin: {:?}", worker.wait_with_output());
}

fn send_term(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is our child");
}

/// Sends SIGTERM and waits until the worker says that it knows. What it gives stays open for what the worker says later.
fn ask_to_stop(worker: &mut Child) -> impl Sized + use<> {
    send_term(worker);
    let mut said = String::new();
    let mut stderr = BufReader::new(worker.stderr.take().expect("it is piped"));
    stderr.read_line(&mut said).expect("it says something");
    assert!(said.contains("waiting for the commands that run; a second signal ends them"), "{said}");
    stderr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_told_to_stop_finishes_what_it_holds() {
    let server = Server::start().await;
    run(&server, &["topic", "create", "jobs", "--partitions", "1"], b"");
    run(&server, &["produce", "jobs"], b"a\nb\nc\n");
    assert_eq!(status(&run(&server, &["queue", "create", "work", "--topic", "jobs"], b"")), Some(0));
    let (go, begun) = (server.folder().join("go"), server.folder().join("begun"));
    let command = format!("echo $$ > FILE; while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let (mut working, _) = worker(&server, &command, &begun);
    let _stderr = ask_to_stop(&mut working);
    std::fs::write(&go, "").unwrap();
    assert_eq!(working.wait().expect("it is our child").code(), Some(0));
    let queue = server.client().get("/v1/queues/work").await.json();
    assert_eq!([&queue["acked"], &queue["ready"], &queue["leased"]], [1, 2, 0], "{queue}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_workers_commands_and_what_they_started() {
    let server = Server::start().await;
    run(&server, &["topic", "create", "jobs", "--partitions", "1"], b"");
    run(&server, &["produce", "jobs"], b"a\n");
    assert_eq!(status(&run(&server, &["queue", "create", "work", "--topic", "jobs"], b"")), Some(0));
    let (mut working, started) = worker(&server, "sleep 600 & echo $! > FILE; wait", &server.folder().join("started"));
    let _stderr = ask_to_stop(&mut working);
    send_term(&working);
    assert_eq!(working.wait().expect("it is our child").code(), Some(1));
    let is_gone = || match std::fs::read_to_string(format!("/proc/{started}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    for _ in 0..PATIENCE.as_millis() / 10 {
        if is_gone() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the command's own child {started} still runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_fills_its_topic_with_scores_that_add_up() {
    let server = Server::start().await;
    let demo = run(&server, &["demo", "--speed", "0", "--seed", "3"], b"");
    assert_eq!(status(&demo), Some(0), "{}", text(&demo.stderr));
    let consumed = run(&server, &["consume", "games"], b"");
    let events: Vec<Value> =
        text(&consumed.stdout).lines().map(|l| serde_json::from_str(l).expect("a JSON value")).collect();
    let goals = events.iter().filter(|e| e["type"] == "goal").count() as u64;
    let finals = events.iter().filter(|e| e["type"] == "full_time");
    let scored: u64 = finals.map(|e| e["score"][0].as_u64().unwrap_or(0) + e["score"][1].as_u64().unwrap_or(0)).sum();
    assert!(goals > 0 && goals == scored, "{goals} goals, {scored} in the final scores");
}
