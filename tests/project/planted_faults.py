"""Small wrong edits of the kind that people make, and the tests that must notice: `test_planted_faults.py` plants them.

A list of what the suite is for. Where a file moves or its text changes, the entry follows; where a feature goes, its
entry gives way to another fault in the same room.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """`old`, which occurs once in `file`, replaced by `new`; paths are relative to the repository's root."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Files or single tests, at least one of which must fail."""


FAULTS = (
    # Losses, Eq. 2 to 16
    Fault(
        "max_square_is_maximized",  # wrong sign, Eq. 2
        "kernels/sfda_kernels/patches/cpu.py",
        "(-2 * pixels.numel())",
        "(2 * pixels.numel())",
        ("tests/kernels/patches/test_patch_entropy.py",),
    ),
    Fault(
        "bns_forgets_the_variance",  # dropped term, Eq. 4
        "sfda_engine/losses/bn_statistics.py",
        "(layer.mean - layer.running_mean, layer.variance - layer.running_variance)",
        "(layer.mean - layer.running_mean,)",
        ("tests/engine/losses/test_bn_statistics.py",),
    ),
    Fault(
        "the_discriminator_moves_the_student",  # missing detach, Eq. 15
        "sfda_engine/losses/adversarial.py",
        "patches.detach()",
        "patches",
        ("tests/engine/losses/test_adversarial.py",),
    ),
    Fault(
        "the_generator_agrees_with_the_student",  # wrong sign, Eq. 11
        "sfda_engine/method/steps.py",
        "total - objective.alpha * bounded",
        "total + objective.alpha * bounded",
        ("tests/engine/method/steps/test_terms.py",),
    ),
    Fault(
        "the_student_moves_the_generator",  # missing no_grad, Eq. 12
        "sfda_engine/method/steps.py",
        "with torch.no_grad():\n        synthetic",
        "with nullcontext():\n        synthetic",
        ("tests/engine/method/steps/test_terms.py",),
    ),
    Fault(
        "self_training_writes_statistics",  # wrong BN mode
        "sfda_engine/method/steps.py",
        "networks.student, objective.unwritten_statistics",
        "networks.student, objective.target_statistics",
        ("tests/engine/method/test_self_training.py",),
    ),
    Fault(
        "one_too_many_is_easy",  # off by one, Eq. 14
        "sfda_engine/method/ranking.py",
        "easy=rank < ",
        "easy=rank <= ",
        ("tests/engine/method/test_ranking.py",),
    ),
    # Attention and patch operators on the CPU
    Fault(
        "kl_gradient_loses_the_mirrored_half",  # dropped term, seen only where a map has several strips
        "kernels/sfda_kernels/attention/cpu_gram_kl.py",
        "dx[:, bottom:].baddbmm_(w[..., bottom - top :].mT, x[:, top:bottom])",
        "pass",
        ("tests/kernels/attention/test_cpu_gram_kl.py",),
    ),
    Fault(
        "l1_compares_channels_twice",  # swapped axis, Eq. 6
        "kernels/sfda_kernels/attention/api.py",
        "spatial = attended_l1(t.mT, s.mT, ",
        "spatial = attended_l1(t, s, ",
        ("tests/kernels/attention/test_attention.py",),
    ),
    Fault(
        "upsampling_shifts_by_half_a_pixel",  # off by half, Eq. 13
        "kernels/sfda_kernels/patches/cpu.py",
        "(2 * pixel + 1) * low",
        "2 * pixel * low",
        ("tests/kernels/patches/test_patch_entropy.py",),
    ),
    # Generator, BatchNorm
    Fault(
        "synthetic_images_lose_their_center",  # a margin that is not halved
        "sfda_engine/models/generator.py",
        "(whole - side) // 2",
        "(whole - side)",
        ("tests/engine/models/test_generator.py",),
    ),
    Fault(
        "the_warm_start_keeps_old_statistics",  # dropped reset
        "sfda_engine/models/norms.py",
        "layer.reset_running_stats()",
        "pass",
        ("tests/engine/models/test_batch_norm.py",),
    ),
    # Data
    Fault(
        "frames_are_resized_by_nearest",  # nearest for bilinear
        "sfda_engine/data/images.py",
        "Image.Resampling.BILINEAR",
        "Image.Resampling.NEAREST",
        ("tests/engine/data/test_images.py",),
    ),
    Fault(
        "every_epoch_has_one_order",  # a draw that forgets its epoch
        "sfda_engine/data/loaders.py",
        "manual_seed(mix_seeds(self.seed, epoch))",
        "manual_seed(self.seed)",
        ("tests/engine/data/test_loaders.py",),
    ),
    # Evaluation, guard, selection
    Fault(
        "labels_and_predictions_change_places",  # swapped axis of the confusion
        "sfda_engine/evaluation/scores.py",
        "counts.sum(1), counts.sum(0)",
        "counts.sum(0), counts.sum(1)",
        ("tests/engine/evaluation/test_scoring.py::test_scores_are_those_counted_by_hand",),
    ),
    Fault(
        "the_guard_waits_for_both_signals",  # `and` for `or`
        "sfda_engine/judge/collapse.py",
        "self.left < LEFT or self.agreement",
        "self.left < LEFT and self.agreement",
        ("tests/engine/judge/test_collapse.py::test_what_is_a_collapse",),
    ),
    Fault(
        "a_student_of_nan_is_shipped",  # a comparison that NaN passes
        "sfda_engine/judge/verdict.py",
        "not own.information >= INFORMATION",
        "own.information < INFORMATION",
        ("tests/engine/judge/test_verdict.py::test_verdict_from_scores",),
    ),
    # Checkpoints, sealing, certificate, firewall
    Fault(
        "a_resumed_run_forgets_its_random_numbers",
        "sfda_engine/run_folder/checkpoint.py",
        "accelerator.load_state(str(newest))",
        "torch.random.fork_rng(devices=[])(accelerator.load_state)(str(newest))",
        ("tests/engine/run_folder/test_checkpoint.py",),
    ),
    Fault(
        "files_in_subfolders_are_not_sealed",  # unsealed file
        "sfda_engine/run_folder/sealed.py",
        'partial.rglob("*")',
        'partial.glob("*")',
        ("tests/engine/run_folder/test_sealed.py",),
    ),
    Fault(
        "links_lead_around_the_firewall",  # hole in the label firewall
        "sfda_engine/audit/firewall.py",
        "real = os.path.realpath(os.fsdecode(path))",
        "real = os.path.abspath(os.fsdecode(path))",
        ("tests/engine/audit/test_firewall.py::test_every_way_of_pythons_is_closed",),
    ),
    Fault(
        "labels_released_early_are_certified",  # a one-sided comparison
        "sfda_engine/audit/certificate.py",
        'if line["step"] != steps',
        'if line["step"] > steps',
        ("tests/engine/audit/test_certify.py",),
    ),
    # Configuration, exit codes, report
    Fault(
        "the_file_wins_over_the_command_line",  # swapped precedence
        "sfda_engine/config/loader.py",
        "table | {key: text}",
        "{key: text} | table",
        ("tests/engine/config/test_loader.py::test_command_line_wins_over_yaml_and_the_last_one_wins",),
    ),
    Fault(
        "an_interrupted_run_ends_as_a_failed_one",  # wrong exit code
        "sfda_engine/exit_codes.py",
        "return 130",
        "return 1",
        ("tests/engine/test_cli.py",),
    ),
    Fault(
        "the_report_shows_losses_as_gains",  # wrong sign
        "sfda_engine/report/summary.py",
        "_minus(values[-1], values[0])",
        "_minus(values[0], values[-1])",
        ("tests/engine/report/test_html.py",),
    ),
    # Export
    Fault(
        "nan_passes_the_parity_gate",  # a comparison that NaN passes
        "export/sfda_export/parity.py",
        "not (value <= limit if upper else value >= limit)",
        "(value > limit if upper else value < limit)",
        ("tests/export/test_parity.py::test_every_limit_works_and_nan_is_out_of_it",),
    ),
    Fault(
        "the_exported_graph_takes_bgr",  # RGB for BGR
        "export/sfda_export/graph.py",
        "frames.permute(0, 3, 1, 2)",
        "frames.flip(3).permute(0, 3, 1, 2)",
        ("tests/export/test_graph.py",),
    ),
    # Runtime
    Fault(
        "tensorrt_is_given_the_wrong_shape",  # swapped axes
        "export/sfda_runtime/session.py",
        "frames:1x{height}x{width}x3",
        "frames:1x{width}x{height}x3",
        ("tests/runtime/test_session.py",),
    ),
    Fault(
        "the_oldest_state_is_rolled_back_to",  # wrong order
        "export/sfda_runtime/adaptive.py",
        "*reversed(self._ring)",
        "*self._ring",
        ("tests/runtime/test_adaptive.py",),
    ),
    # Benchmarks
    Fault(
        "a_kernel_of_nan_is_timed",  # a comparison that NaN passes
        "benchmarks/common/passes.py",
        'max(worst, error if error == error else float("inf"))',
        "max(worst, error)",
        ("tests/benchmarks/common/test_compare.py",),
    ),
    Fault(
        "shot_descends_on_diversity",  # wrong sign
        "benchmarks/common/methods/shot.py",
        "+ (mean * (mean + EPSILON).log())",
        "- (mean * (mean + EPSILON).log())",
        ("tests/benchmarks/common/methods/test_losses.py",),
    ),
)
