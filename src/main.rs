//! The binary: the library's command line, and its exit status.

fn main() -> std::process::ExitCode {
    sluice::cli::main()
}
