use super::*;

fn arguments(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn flags_without_a_command_are_the_servers() {
    for (given, meant) in [
        ("sluice", "sluice serve"),
        ("sluice --http off", "sluice serve --http off"),
        ("sluice --print-config", "sluice serve --print-config"),
        ("sluice --help", "sluice --help"),
        ("sluice -V", "sluice -V"),
        ("sluice topic list", "sluice topic list"),
    ] {
        assert_eq!(with_command(arguments(given)), arguments(meant));
    }
}

#[test]
fn each_setting_has_its_flag() {
    for setting in crate::config::SETTINGS {
        // The last one wins.
        let line = format!("sluice serve --{0} y --{0} x", setting.flag());
        match Cli::try_parse_from(arguments(&line)).unwrap().command {
            Command::Serve(args) => assert_eq!(args.flag(setting.name), Some("x")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_command_has_examples() {
    fn walk(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        if command.get_subcommands().next().is_none() && !command.is_hide_set() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{path} has no examples");
            assert!(command.get_about().is_some(), "{path} says not what it does");
        }
        for sub in command.get_subcommands() {
            walk(sub, &path);
        }
    }
    walk(&Cli::command(), "");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    assert_eq!(CliError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).status(), 0);
    assert_eq!(CliError::from(std::io::Error::other("x")).status(), 1);
}
