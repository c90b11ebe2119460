//! The command line: the server, and clients of its HTTP door.
//!
//! **Invariant**: data goes to stdout, everything else to stderr; a command ends with 0 (done), 1 (failed), 2 (wrong
//! usage or configuration) or 3 (the data folder cannot be used). `serve` and `doctor` touch a data folder, `bench`
//! makes one for itself; every other command talks HTTP and nothing else.
//!
//! Called by `main`. Client commands run on one thread, `serve` and `bench` on all.

mod bench;
mod consume;
mod consume_group;
mod demo;
mod doctor;
mod error;
mod group;
mod http_client;
mod logging;
mod openapi;
mod output;
mod produce;
mod queue;
mod record;
mod serve;
mod server_flags;
mod signals;
mod sse;
mod topic;

pub use error::CliError;

use clap::{CommandFactory, Parser, Subcommand};
use std::{ffi::OsString, process::ExitCode};

/// A streaming gateway in one binary: a partitioned log with a web-native front door.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, max_term_width = 110, after_help = EXAMPLES, arg_required_else_help = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
`sluice` alone is `sluice serve`.

Examples:
  sluice                                     serve on 127.0.0.1:8080, data in ./sluice-data
  sluice --http 127.0.0.1:0 --data /tmp/s    a free port, another folder
  echo '{\"home\":1}' | sluice produce games   one event
  sluice consume games --follow              everything that comes, live";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Topic(topic::TopicArgs),
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    Group(group::GroupArgs),
    Queue(queue::QueueArgs),
    Demo(demo::DemoArgs),
    Doctor(doctor::DoctorArgs),
    Openapi(openapi::OpenapiArgs),
    Bench(bench::BenchArgs),
    #[command(hide = true)]
    BenchBare(bench::bare::BareArgs),
    Completions(CompletionsArgs),
}

/// Print a shell's completion script
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice completions bash > ~/.local/share/bash-completion/completions/sluice")]
struct CompletionsArgs {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Runs the process's command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(with_command(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are asked for and go to stdout; clap knows.
            let status = if e.use_stderr() { 2 } else { 0 };
            let _ = e.print();
            return ExitCode::from(status);
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if let Some(text) = e.text() {
                eprintln!("sluice: {text}");
            }
            ExitCode::from(e.status())
        }
    }
}

/// Puts `serve` in front of flags that come without a command.
fn with_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let of_the_whole = ["-h", "--help", "-V", "--version"];
    let is_serve = arguments.get(1).is_none_or(|first| {
        let first = first.to_string_lossy();
        first.starts_with('-') && !of_the_whole.contains(&first.as_ref())
    });
    if is_serve {
        arguments.insert(1.min(arguments.len()), "serve".into());
    }
    arguments
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(args) => runtime(true)?.block_on(serve::run(args)),
        Command::Topic(args) => runtime(false)?.block_on(topic::run(args)),
        Command::Produce(args) => runtime(false)?.block_on(produce::run(args)),
        Command::Consume(args) => runtime(false)?.block_on(consume::run(args)),
        Command::Group(args) => runtime(false)?.block_on(group::run(args)),
        Command::Queue(args) => runtime(false)?.block_on(queue::run(args)),
        Command::Demo(args) => runtime(false)?.block_on(demo::run(args)),
        Command::Bench(args) => runtime(true)?.block_on(bench::run(args)),
        Command::BenchBare(args) => runtime(true)?.block_on(bench::bare::run(args)),
        Command::Doctor(args) => doctor::run(&args),
        Command::Openapi(args) => openapi::run(&args),
        Command::Completions(args) => {
            clap_complete::generate(args.shell, &mut Cli::command(), "sluice", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn runtime(all_cores: bool) -> Result<tokio::runtime::Runtime, CliError> {
    let mut builder = match all_cores {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build().map_err(|e| CliError::failed(format!("cannot start threads: {e}")))
}

#[cfg(test)]
mod tests;
