"""
What only a GPU can tell about this package, in at most eight minutes: a machine with one is often at hand for minutes.

    python examples/gpu_report.py                          # on the GPU
    python examples/gpu_report.py --device cpu --quick     # every section in small: nothing but the GPU is new later

Nine sections, each in a process with a limit of its own; every result is written before the next begins, so that an error, a
hang or the end of the machine costs one section: machine, tests, equal (captured updates against plain ones), update (one
alone), kernels, environments, training (beside SB3's DQN), memory, host. ``--sections`` chooses some of them.

Writes report.jsonl, a line for each result, and report.md. Needs Linux. Exits with 1 if a section failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import benchmark_throughput as benchmark
import numpy as np
import torch as th

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.common.workers import usable_cpus
from sb3_mirl.envs import AtariVecEnv
from sb3_mirl.soft_dqn import networks, update
from sb3_mirl.soft_dqn.captured import CapturedUpdates
from sb3_mirl.soft_dqn.networks import optimized
from sb3_mirl.soft_dqn.policies import SoftQPolicy

GAME, BATCH, SECONDS = "Breakout", 32, 480
Row = dict[str, Any]
AGENTS: dict[str, tuple[type[SoftDQN], Row]] = {"DQN": (SoftDQN, benchmark.DQN_TARGET), "MIRL": (MIRL, dict(beta_init=1.0))}


class Setting(NamedTuple):
    """Where and how large a section measures."""

    device: str
    quick: bool

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    def either(self, full: Any, quick: Any) -> Any:
        """Return one of two sizes."""
        return quick if self.quick else full


# The sections: each yields results


def machine(setting: Setting) -> Iterator[Row]:
    """Name of the card, versions, cores."""
    import ale_py
    import gymnasium
    import stable_baselines3

    yield dict(
        device=th.cuda.get_device_name() if setting.on_gpu else "cpu",
        driver=_driver() if setting.on_gpu else "-",
        cores=usable_cpus(),
        python=sys.version.split()[0],
        torch=th.__version__,
        cuda=th.version.cuda or "-",
        cudnn=th.backends.cudnn.version() or "-",
        numpy=np.__version__,
        sb3=stable_baselines3.__version__,
        gymnasium=gymnasium.__version__,
        ale_py=ale_py.__version__,
    )


def _driver() -> str:
    line = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(line, capture_output=True, text=True).stdout.strip()


def tests(setting: Setting) -> Iterator[Row]:
    """The tests that know of CUDA."""
    folder = Path(__file__).resolve().parents[1]
    files = ["test_captured_updates.py", *setting.either(["test_update_paths.py"], [])]
    line = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *(f"tests/{name}" for name in files)]
    done = subprocess.run([*line, *setting.either([], ["-k", "recording"])], cwd=folder, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [""]
    failures = [text for text in lines if text.startswith(("FAILED", "ERROR"))]
    yield dict(rc=done.returncode, summary=lines[-1], failures=failures)


def equal(setting: Setting) -> Iterator[Row]:
    """Captured and plain updates from the same weights and minibatches: largest differences."""
    for agent in AGENTS:
        model = _model(agent, setting)
        for arithmetic in setting.either(("float32", "tf32", "bfloat16"), ("float32",)):
            for n in setting.either((1, 2, 16), (2,)):
                _allow_tf32(arithmetic == "tf32")
                rule = model.update_rule()._replace(bfloat16=arithmetic == "bfloat16")
                plain, fast = (twin(model.policy) for _ in range(2))
                updates = _fast_updates(setting)
                for seed in range(2):  # the second time a graph is replayed
                    losses = []
                    for policy, run in ((plain, update.eager_updates), (fast, updates)):
                        np.random.seed(seed)
                        losses.append(run(policy, update.sampler(model.replay_buffer, None), rule, n, BATCH))
                yield dict(
                    agent=agent,
                    arithmetic=arithmetic,
                    n=n,
                    captured=_is_captured(updates),
                    weights=_largest(plain.q_net.parameters(), fast.q_net.parameters()),
                    moments=_largest(_moments(plain), _moments(fast)),
                    losses=_largest([losses[0]], [losses[1]]),
                    beta=abs(float(plain.beta) / float(fast.beta) - 1) if np.isfinite(float(plain.beta)) else 0.0,
                )


def one_update(setting: Setting) -> Iterator[Row]:
    """Microseconds of an update, and of what may shorten it."""
    model = _model("MIRL", setting)
    variants: list[tuple[str, str, int]] = [("plain", "float32", 4), ("captured", "float32", 16)]
    if not setting.quick:
        variants = [("plain", "float32", n) for n in (1, 16)]
        variants += [("captured", arithmetic, n) for arithmetic in ("float32", "tf32", "bfloat16") for n in (1, 4, 16, 32)]
        for name in ("channels-last", "inductor"):
            variants += [(name, arithmetic, 16) for arithmetic in ("float32", "tf32", "bfloat16")]
    else:
        variants += [("channels-last", "float32", 2), ("inductor", "float32", 2)]
    for name, arithmetic, n in variants:
        _allow_tf32(arithmetic == "tf32")
        rule, policy = model.update_rule()._replace(bfloat16=arithmetic == "bfloat16"), twin(model.policy)
        networks.LAYOUT_OFF_CPU = th.channels_last if name == "channels-last" else th.contiguous_format
        if name == "channels-last":
            _to_channels_last(policy)
        if name == "inductor":
            for module in (policy.q_net.features_extractor, policy.q_net.q_net):
                module.compile(backend=setting.either("inductor", "eager"))
        run = update.eager_updates if name == "plain" else _fast_updates(setting)
        call = partial(run, policy, update.sampler(model.replay_buffer, None), rule, n, BATCH)
        try:
            seconds = _seconds_of(call, setting.either(1.5, 0.05), setting)
        except Exception as error:  # the next variant may do better
            yield dict(variant=name, arithmetic=arithmetic, n=n, error=f"{type(error).__name__}: {error}"[:300])
            continue
        microseconds = seconds / n * 1e6
        yield dict(variant=name, arithmetic=arithmetic, n=n, captured=_is_captured(run), us_per_update=round(microseconds, 1))


def kernels(setting: Setting) -> Iterator[Row]:
    """What runs on the device in three replays of 16 updates, and how long it is idle between."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    n = setting.either(16, 2)
    for arithmetic in setting.either(("float32", "bfloat16"), ("float32",)):
        _allow_tf32(False)
        model = _model("MIRL", setting)
        rule, updates = model.update_rule()._replace(bfloat16=arithmetic == "bfloat16"), _fast_updates(setting)
        sample = update.sampler(model.replay_buffer, None)
        updates(model.policy, sample, rule, n, BATCH)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.on_gpu else [])]
        with profile(activities=activities) as profiler:
            for _ in range(3):
                updates(model.policy, sample, rule, n, BATCH)
            _wait(setting)
        where = DeviceType.CUDA if setting.on_gpu else DeviceType.CPU
        events = [event for event in profiler.events() or () if event.device_type == where]
        spans = sorted((event.time_range.start, event.time_range.end) for event in events)
        gaps = [max(start - end, 0.0) for (_, end), (start, _) in pairwise(spans)]
        yield dict(
            arithmetic=arithmetic,
            kernel="all",
            per_update=len(events) / (3 * n),
            us_per_update=sum(end - start for start, end in spans) / (3 * n),
            gaps_us_per_update=sum(gap for gap in gaps if gap < 1000) / (3 * n),
        )
        times: dict[str, list[float]] = {}
        for event in events:
            times.setdefault(event.name, []).append(event.time_range.end - event.time_range.start)
        for name in sorted(times, key=lambda name: -sum(times[name]))[: setting.either(25, 3)]:
            count, total = len(times[name]) / (3 * n), sum(times[name]) / (3 * n)
            yield dict(arithmetic=arithmetic, kernel=name[:90], per_update=count, us_per_update=total)


def environments(setting: Setting) -> Iterator[Row]:
    """Environment steps per second without learning."""
    for n_envs in setting.either((16, 64, 128, 256), (2,)):
        steps = benchmark.environments_alone(GAME, n_envs, setting.either(5, 0.2))
        yield dict(n_envs=n_envs, steps_per_s=round(steps))


def training(setting: Setting) -> Iterator[Row]:
    """Environment steps per second of training, in turns with SB3's DQN as installed and tuned."""
    ours = [(agent, n, "float32") for n in setting.either((64, 16, 128, 256), (2,)) for agent in AGENTS]
    ours += setting.either([(agent, n, "bfloat16") for n in (64, 128) for agent in AGENTS], [])
    peers = [("SB3 DQN as installed", 1, "float32"), ("SB3 DQN tuned", setting.either(16, 2), "float32"), *ours]
    end = time.perf_counter() + SECTIONS["training"][1] - 15
    for round_ in range(setting.either(2, 1)):
        for name, n_envs, precision in peers:
            if time.perf_counter() > end:
                return
            yield dict(peer=name, n_envs=n_envs, precision=precision, round=round_, **_train(name, n_envs, precision, setting))


def _train(name: str, n_envs: int, precision: str, setting: Setting) -> Row:
    warm_up = setting.either(500, 20)
    args = argparse.Namespace(
        env_id=None, game=GAME, width=64, n_envs=n_envs, batch_size=BATCH, warm_up=warm_up, device=setting.device
    )
    if name.startswith("SB3"):
        peer = next(key for key in benchmark.peers(args) if ("installed" if n_envs == 1 else "(tuned)") in key)
        model = benchmark.peers(args)[peer]()
    else:
        cls, kwargs = AGENTS[name]
        model = benchmark.ours(args, cls, precision=precision, **kwargs)()
    clock = benchmark.Clock(setting.either(4, 0.2), 2 * warm_up)
    model.learn(10**9, callback=clock)
    result = clock.result()
    assert model.env is not None
    model.env.close()
    return {key: round(result[key], 2) for key in ("steps_per_s", "updates_per_s", "steps_per_update")}


def memory(setting: Setting) -> Iterator[Row]:
    """Of the Nature memory of 1e6 transitions, and of updates."""
    size = setting.either(1_000_000, 2_000)
    (filled,) = benchmark.memory(setting.device, size, setting.either(250, 8)).to_dict("records")
    yield {"what": "replay memory", **{str(key): round(float(value), 3) for key, value in filled.items()}}
    if not setting.on_gpu:
        return
    for n in (16, update.AT_ONCE):
        model = _model("MIRL", setting)
        th.cuda.reset_peak_memory_stats()
        before, updates = th.cuda.memory_allocated(), _fast_updates(setting)
        for _ in range(2):
            updates(model.policy, update.sampler(model.replay_buffer, None), model.update_rule(), n, BATCH)
        yield dict(what=f"peak of {n} updates beside the model", vram_gb=(th.cuda.max_memory_allocated() - before) / 1e9)


def host(setting: Setting) -> Iterator[Row]:
    """Where the host spends its time while training: what waits for the device is seen here."""
    import cProfile
    import pstats

    n_envs = setting.either(64, 2)
    model = _model("MIRL", setting, n_envs)
    model.learn(setting.either(40, 4) * n_envs, reset_num_timesteps=False)
    steps = setting.either(150, 4)
    profiler = cProfile.Profile()
    start = time.perf_counter()
    profiler.enable()
    model.learn(steps * n_envs, reset_num_timesteps=False)
    profiler.disable()
    yield dict(function="all", ms_per_step=(time.perf_counter() - start) / steps * 1e3)
    stats: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    for (file, line, name), (_, calls, own, total, _) in sorted(stats.items(), key=lambda item: -item[1][2])[:20]:
        where = f"{Path(file).name}:{line} {name}"
        yield dict(function=where, calls=calls / steps, ms_per_step=own / steps * 1e3, with_callees=total / steps * 1e3)


SECTIONS: dict[str, tuple[Callable[[Setting], Iterator[Row]], int]] = {
    "machine": (machine, 15), "tests": (tests, 60), "equal": (equal, 50), "update": (one_update, 95), "kernels": (kernels, 25),
    "environments": (environments, 35), "training": (training, 150), "memory": (memory, 30), "host": (host, 20),
}  # fmt: skip
"""Functions and their limits in seconds."""

# Tools of the sections


def _model(agent: str, setting: Setting, n_envs: int = 8) -> SoftDQN:
    """An agent with random transitions in its memory, before its first update."""
    cls, kwargs = AGENTS[agent]
    sizes = dict(learning_starts=256, buffer_size=4096, batch_size=BATCH, target_update_interval=1000)
    env = AtariVecEnv(GAME, n_envs, seed=0)
    return cls("CnnPolicy", env, device=setting.device, seed=0, **sizes, **kwargs).learn(256)


def twin(policy: SoftQPolicy) -> SoftQPolicy:
    """A policy that can be trained apart from the original, with an optimiser of its own."""
    copy = deepcopy(policy)
    copy.optimizer = type(policy.optimizer)(copy.q_net.parameters(), **policy.optimizer.defaults)  # type: ignore[call-arg]
    return copy


def _to_channels_last(policy: SoftQPolicy) -> None:
    for parameter in policy.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=th.channels_last)
    policy.adopt_optimizer_state()


def _fast_updates(setting: Setting) -> Callable[..., th.Tensor]:
    """What ``train`` does on this device."""
    captured = CapturedUpdates() if setting.on_gpu else update.fast_updates

    def run(policy: SoftQPolicy, sample: Any, rule: Any, n: int, batch_size: int) -> th.Tensor:
        with optimized((policy.q_net, policy.q_net_target), rule.bfloat16):
            return captured(policy, sample, rule, n, batch_size)

    run.captured = captured  # type: ignore[attr-defined]
    return run


def _is_captured(run: Any) -> bool:
    return getattr(getattr(run, "captured", None), "_graph", None) is not None


def _allow_tf32(allowed: bool) -> None:
    th.set_float32_matmul_precision("high" if allowed else "highest")
    th.backends.cudnn.allow_tf32 = allowed


def _wait(setting: Setting) -> None:
    if setting.on_gpu:
        th.cuda.synchronize()


def _seconds_of(run: Callable[[], Any], budget: float, setting: Setting) -> float:
    """Of one call, after two to warm up."""
    for _ in range(2):
        run()
    _wait(setting)
    calls, start = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < budget:
        run()
        calls += 1
        if calls % 8 == 0:
            _wait(setting)
    _wait(setting)
    return (time.perf_counter() - start) / calls


def _largest(these: Iterable[th.Tensor], those: Iterable[th.Tensor]) -> float:
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in zip(these, those, strict=True))


def _moments(policy: SoftQPolicy) -> list[th.Tensor]:
    return [state[name] for state in policy.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]


# The report


def run_section(name: str, setting: Setting, file: Path, limit: float) -> bool:
    """Run one section in a process of its own, which is ended at the limit; say whether it came to its end."""
    start = time.perf_counter()
    process = get_context("fork").Process(target=_in_child, args=(name, setting, file))
    process.start()
    process.join(limit)
    error = None
    if process.exitcode is None:
        error = f"ended after {limit:.0f} s"
    elif process.exitcode < 0:
        error = f"killed by {signal.Signals(-process.exitcode).name}"
    try:
        os.killpg(process.pid or 0, signal.SIGKILL)  # and its workers
    except ProcessLookupError:
        pass
    process.join()
    if error is not None:
        write(file, dict(section=name, error=error))
    write(file, dict(section=name, seconds=round(time.perf_counter() - start, 1)))
    return error is None and process.exitcode == 0


def _in_child(name: str, setting: Setting, file: Path) -> None:
    os.setsid()
    try:
        for row in SECTIONS[name][0](setting):
            write(file, dict(section=name, **row))
    except BaseException:
        write(file, dict(section=name, error=traceback.format_exc()[-1500:]))
        os._exit(1)
    os._exit(0)


def write(file: Path, row: Row) -> None:
    """Append a result, so that it is on the disk."""
    with open(file, "a") as lines:
        lines.write(json.dumps(row, default=str) + "\n")
        lines.flush()
        os.fsync(lines.fileno())
    print(json.dumps(row, default=str), flush=True)


def as_markdown(rows: list[Row]) -> str:
    """A table for each section, and its errors."""
    text = ["# GPU report"]
    for name in dict.fromkeys(row["section"] for row in rows):
        own = [{key: value for key, value in row.items() if key != "section"} for row in rows if row["section"] == name]
        seconds = next((row["seconds"] for row in own if set(row) == {"seconds"}), None)
        results = [row for row in own if set(row) not in ({"seconds"}, {"error"})]
        text.append(f"\n## {name}" + ("" if seconds is None else f" ({seconds} s)") + "\n")
        columns = list(dict.fromkeys(key for row in results for key in row))
        if columns:
            text += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            text += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in results]
        text += [f"\n```\n{row['error']}\n```" for row in own if set(row) == {"error"}]
    return "\n".join(text) + "\n"


def _cell(value: Any) -> str:
    return (f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else f"{value}").replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="every section in small")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of all sections together (default: {SECONDS})")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "This run of .* steps cannot learn much")
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "report.jsonl"
    file.unlink(missing_ok=True)
    setting, end, failed = Setting(args.device, args.quick), time.perf_counter() + args.seconds, list[str]()
    for name in args.sections:
        limit = min(SECTIONS[name][1], end - time.perf_counter()) * (10 if args.quick else 1)  # tests run on busy machines
        if limit <= 0:
            write(file, dict(section=name, error="no time was left"))
            failed.append(name)
            continue
        if not run_section(name, setting, file, limit):
            failed.append(name)
        (args.out / "report.md").write_text(as_markdown([json.loads(line) for line in file.read_text().splitlines()]))
    print(f"Tables in {args.out / 'report.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
