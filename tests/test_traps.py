"""Known bugs and methodological traps of reinforcement-learning and meta-learning code: which test covers which.

The table is checked: every trap has tests, and all of them exist.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

COVERED: dict[str, tuple[str, ...]] = {
    # derived physics not recomputed when a constant changes
    "T1": (
        "tests/test_envs_cartpole.py::test_each_constant_alone_changes_the_trajectory",
        "tests/test_envs_cartpole.py::test_step_equals_scalar_integrator_with_friction_and_polarity",
    ),
    # the task set on a wrapper, or drawn anew at a reset
    "T2": (
        "tests/test_envs_cartpole.py::test_step_leaves_its_inputs_alone_and_reset_leaves_the_task_alone",
        "tests/test_envs_cartpole.py::test_each_row_has_its_own_task",
        "tests/test_training.py::test_only_training_tasks_are_trained_on",
    ),
    # plain -log p A differentiated twice is not the meta-gradient
    "T3": (
        "tests/test_estimators.py::test_plain_vpg_is_wrong_to_first_order",
        "tests/test_estimators.py::test_vpg_with_pre_update_credit_is_unbiased",
        "tests/test_estimators.py::test_centred_advantages_leave_plain_vpg_without_curvature",
        "tests/test_estimators.py::test_lvc_and_dice_are_right_to_first_order_on_one_step_episodes",
    ),
    # rates in a plain dict: no gradient, not moved, not saved
    "T4": (
        "tests/test_rules.py::test_everything_learned_gets_a_gradient",
        "tests/test_rules.py::test_checkpoints_of_rules_with_dotted_names_round_trip",
        "tests/test_learner.py::test_the_checkpoint_holds_everything_learned",
    ),
    # a learnable rate that is never learned
    "T5": (
        "tests/test_rules.py::test_everything_learned_gets_a_gradient",
        "tests/test_optimizers.py::test_descent_takes_the_step_of_its_optimizer",
        "tests/test_optimizers.py::test_a_trust_region_step_improves_within_its_bound",
    ),
    # a named option that is ignored
    "T6": ("tests/test_experiments.py::test_every_field_changes_what_is_learned",),
    # a "Meta-SGD" that is SGD
    "T7": ("tests/test_rules.py::test_meta_sgd_multiplies_elementwise_by_hand",),
    # test tasks are training tasks because the seeds are equal
    "T8": (
        "tests/test_envs_benchmarks.py::test_no_split_holds_a_training_task",
        "tests/test_envs_benchmarks.py::test_whole_cells_are_held_out",
    ),
    # evaluation on the training set of tasks
    "T9": ("tests/test_evaluation.py::test_training_tasks_are_refused",),
    # a test protocol that differs from training
    "T10": (
        "tests/test_evaluation.py::test_a_curve_equals_a_hand_rolled_loop",
        "tests/test_rules.py::test_per_step_uses_the_rate_of_its_step_and_then_the_last",
    ),
    # no return before adaptation, or adaptation data scored
    "T11": (
        "tests/test_evaluation.py::test_the_episodes_adapted_on_are_never_scored",
        "tests/test_evaluation.py::test_no_steps_give_one_column",
    ),
    # a cut-off treated as death
    "T12": (
        "tests/test_returns.py::test_gae_of_a_truncated_episode_by_hand",
        "tests/test_advantages.py::test_bootstrapping_credits_only_what_was_cut_off",
    ),
    # V(s') subtracted for V(s) where an episode ends
    "T13": (
        "tests/test_returns.py::test_gae_of_a_terminated_episode_by_hand",
        "tests/test_returns.py::test_gae_equals_stable_baselines3",
    ),
    # values of padding leak into real advantages
    "T14": (
        "tests/test_returns.py::test_gae_leaks_nothing_from_padding",
        "tests/test_advantages.py::test_longer_padding_changes_nothing",
        "tests/test_losses.py::test_padding_leaks_nothing",
    ),
    # division by the variance
    "T15": ("tests/test_advantages.py::test_the_scale_of_rewards_does_not_matter_once_normalised",),
    # the mean over action components for a log-probability
    "T16": ("tests/test_distributions.py::test_the_log_probability_of_a_vector_is_the_sum_not_the_mean",),
    # steps of short episodes weigh more
    "T17": ("tests/test_losses.py::test_every_step_weighs_the_same_however_long_its_episode",),
    # unfinished episodes dropped; planned steps counted
    "T18": (
        "tests/test_rollouts.py::test_every_task_gets_exactly_its_episodes",
        "tests/test_training.py::test_the_step_counter_counts_environment_steps_really_taken",
    ),
    # an automatic reset hands out the next episode's first observation as the last one's end, or mixes the two
    "T19": (
        "tests/test_sb3.py::test_every_step_equals_sb3s_own_vec_env_on_a_family_without_chance",
        "tests/test_sb3.py::test_rows_end_alone_and_the_next_episode_starts_clean",
        "tests/test_sb3.py::test_rows_start_again_where_the_generator_of_the_reset_goes_on",
        "tests/test_gymnasium_family.py::test_an_ended_episode_waits_and_never_leaks_into_the_next",
    ),
    # a baseline scored on the episodes it was fitted to
    "T20": ("tests/test_baselines.py::test_cross_fitting_never_uses_the_episodes_it_scores",),
    # a solver that fails on singular features
    "T21": ("tests/test_baselines.py::test_repeated_and_constant_observations_do_not_break_the_solver",),
    # global random state
    "T22": (
        "tests/test_rollouts.py::test_the_generator_decides_and_no_global_state_is_touched",
        "tests/test_policies.py::test_constructors_draw_from_their_generator_only",
        "tests/test_training.py::test_the_same_seeds_give_the_same_bits",
        "tests/test_envs_cartpole.py::test_global_generators_are_untouched",
    ),
    # the last transition dropped
    "T23": ("tests/test_rollouts.py::test_masks_ends_and_returns_equal_a_scalar_simulation",),
    # first order mistaken for second; more than one step broken
    "T24": (
        "tests/test_learner.py::test_vpg_meta_gradient_equals_central_differences",
        "tests/test_rules.py::test_first_order_drops_the_second_order_term",
    ),
    # an unused head crashes the inner gradient
    "T25": ("tests/test_rules.py::test_an_unused_head_and_a_frozen_layer_do_no_harm",),
    # a failed line search leaves unsafe parameters
    "T26": (
        "tests/test_optimizers.py::test_a_failed_line_search_restores_everything_bit_for_bit",
        "tests/test_optimizers.py::test_a_non_finite_gradient_or_a_flat_objective_changes_nothing",
    ),
    # worker processes that share a seed, compute something else, hang, or outlive their parent
    "T27": (
        "tests/test_gymnasium_family.py::test_everything_is_a_function_of_the_generator_alone",
        "tests/test_gymnasium_family.py::test_workers_compute_what_this_process_computes",
        "tests/test_gymnasium_family.py::test_workers_that_hang_or_die_give_one_line_and_leave_nobody_behind",
        "tests/test_gymnasium_family.py::test_workers_end_with_a_parent_that_is_killed",
    ),
    # greedy and sampled scores mixed up
    "T28": ("tests/test_evaluation.py::test_sampled_and_mode_scores_are_both_there_and_differ",),
    # one interval over tasks and rollouts pooled
    "T29": (
        "tests/test_stats.py::test_interval_covers_as_often_as_it_says",
        "tests/test_stats.py::test_pooling_seeds_and_tasks_covers_far_too_rarely",
    ),
    # a reward one step late
    "T30": ("tests/test_envs_navigation.py::test_reward_is_of_the_position_after_the_move",),
    # resuming that forgets
    "T31": (
        "tests/test_experiments.py::test_resuming_is_exact",
        "tests/test_optimizers.py::test_descent_resumes_exactly",
    ),
    # running normalisers that change between acting and learning, or while scored
    "T32": (
        "tests/test_memory.py::test_the_scale_of_inputs_is_the_mean_over_iterations",
        "tests/test_memory.py::test_the_scale_of_values_is_the_mean_over_the_first_iterations",
        "tests/test_memory.py::test_rescaled_values_stay_what_they_are",
        "tests/test_memory.py::test_inputs_are_rescaled_only_once_all_is_trained_on",
        "tests/test_memory.py::test_scoring_leaves_the_agent_and_its_scales_alone",
    ),
}


@cache
def functions_of(path: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


def test_every_trap_is_covered() -> None:
    assert sorted(COVERED) == sorted(f"T{i}" for i in range(1, 33))
    assert all(COVERED.values())


@pytest.mark.parametrize("trap", COVERED)
def test_the_tests_named_exist(trap: str) -> None:
    for entry in COVERED[trap]:
        file, _, name = entry.partition("::")
        assert (ROOT / file).is_file(), entry
        assert name in functions_of(ROOT / file), entry
