"""Every setting has a test that fails when the setting is ignored."""

import asyncio
import importlib.metadata
import re
import runpy
from pathlib import Path

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import make_mocked_request
from tests.ports import free_port
from tests.proofs.virtual_time import run_in_virtual_time
from tests.server.config import settings_plugin
from tests.server.skills_under_test import Parrot

from palaver.app import build_server
from palaver.authentication import Authenticator
from palaver.checks import plugin_models
from palaver.config.reference import list_settings
from palaver.config.settings import (
    AdmissionSettings,
    AuthKey,
    AuthSettings,
    DispatchSettings,
    EngineSettings,
    LedgerSettings,
    RoutingSettings,
    Secret,
    ServerSettings,
    Settings,
)
from palaver.engines.supervised import SupervisedEngine
from palaver.errors import Forbidden, TooLarge, TooMany
from palaver.ledger import HISTORY_BYTES, Claim
from palaver.messages import Conversation, Message
from palaver.metrics import Metrics
from palaver.plugins import load_plugins
from palaver.routing import Router
from palaver.server import Server
from palaver.skills import Skill
from palaver.testing import ChatClient, MemoryLedger, ScriptedEngine, ScriptedReply, converse
from palaver.turns.turn import Turn
from palaver.web.listener import listening

ROOT = Path(__file__).parents[3]
ROOM = "tests/plugins/ledgers/test_room.py"
STORAGE = "tests/server/admission/test_storage_quotas.py"
DATA = "tests/server/admission/test_data_requests.py"
LIMITS = "tests/server/turns/test_limits.py"
AGENT = "tests/server/turns/test_agent.py"
ACTING = "tests/skills/test_agent.py"
THIS = "tests/server/config/test_settings_effect.py"
CHECK = "tests/server/cli/test_check.py"
FILES = "tests/server/files"
CONTINUATION = "tests/server/engines/test_continuing.py"
CONCURRENCY = "tests/server/turns/test_concurrency_policy.py"
ADMISSION = "tests/server/admission/test_control.py"
SCHEDULED = "tests/server/engines/test_scheduled.py"
BROWSERS = "tests/server/web/test_browsers.py"
CONNECTIONS = "tests/server/web/test_connections.py"
DEADLINES = "tests/server/web/test_deadlines.py"
SLOW = "tests/server/web/test_slow_readers.py"
SHUTDOWN = "tests/server/web/test_shutdown.py"
WIDGET = "tests/server/web/test_widget.py"
A2A = "tests/plugins/channels/a2a"
MCP_CHANNEL = "tests/plugins/channels/mcp"
WEBHOOKS = "tests/plugins/channels/webhooks"
SLACK = "tests/plugins/channels/slack"
JOBS = "tests/server/cli/test_jobs.py"
TOOLS = "tests/server/turns/test_tool_services.py"
FETCHING = "tests/server/test_fetching.py"
DISCORD = "tests/plugins/channels/discord"
MCP_TOOLS = "tests/plugins/tools/mcp"
A2A_TOOLS = "tests/plugins/tools/a2a"
IDENTITIES = "tests/server/test_sites.py"
REDIS_SEARCH = "tests/plugins/knowledge/test_redis.py"
FLOOR = "tests/plugins/knowledge/test_conformance.py::test_the_floor_of_similarity_is_a_setting"
EMBEDDERS = "tests/plugins/embedders/test_conformance.py"
QDRANT = "tests/plugins/knowledge/test_qdrant.py"
LIMITED_FILES = (
    "tests/plugins/knowledge/test_hostile_files.py::test_a_limit_is_a_setting_and_refuses_by_name"
)

COVERED = {
    "server.host": f"{CHECK}::test_each_mistake_is_one_sentence",
    "server.port": f"{THIS}::test_the_server_listens_at_its_port",
    "server.data": "tests/server/models/test_models.py::test_models_are_added_chosen_and_listed",
    "server.sharing": "tests/server/web/test_conversation_api.py::test_sharing_can_be_switched_off",
    "server.origins": f"{THIS}::test_pages_of_named_origins_may_use_the_server",
    "server.max_message_bytes": f"{THIS}::test_a_message_above_the_limit_is_refused",
    "server.send_queue_bytes": (
        "tests/server/web/test_websocket.py::test_a_slow_reader_is_disconnected_and_can_resume"
    ),
    "server.drain": f"{THIS}::test_a_stopping_server_gives_turns_time_to_end",
    "server.linger": f"{SHUTDOWN}::test_a_stopping_server_listens_and_accepts_for_the_others",
    "server.grace": f"{SHUTDOWN}::test_a_process_that_hangs_ends_after_the_grace_period",
    "connections.total": (f"{CONNECTIONS}::test_a_full_server_still_answers_health_and_metrics"),
    "connections.per_address": (
        f"{CONNECTIONS}::test_one_address_has_no_more_connections_than_set"
    ),
    "connections.per_person": (f"{CONNECTIONS}::test_one_person_has_no_more_connections_than_set"),
    "connections.pending": (
        f"{CONNECTIONS}::test_more_pending_connections_than_set_close_the_oldest"
    ),
    "connections.head_timeout": (f"{DEADLINES}::test_a_request_that_is_never_complete_is_ended"),
    "connections.body_timeout": f"{DEADLINES}::test_a_body_that_is_never_complete_is_ended",
    "connections.hello_timeout": (
        "tests/server/web/test_websocket.py::test_a_client_without_a_hello_is_disconnected"
    ),
    "connections.keep_alive_timeout": (
        f"{DEADLINES}::test_a_connection_without_a_further_request_is_closed"
    ),
    "connections.write_timeout": f"{SLOW}::test_a_client_that_reads_nothing_is_disconnected",
    "connections.per_tenant": (
        "tests/server/web/test_connections.py::test_a_tenant_has_no_more_connections_than_set"
    ),
    "connections.buffer_bytes": f"{SLOW}::test_all_clients_together_leave_no_more_unread_than_set",
    "connections.trusted_proxies": (
        "tests/server/test_addresses.py::test_the_header_is_believed_from_trusted_proxies_only"
    ),
    "auth.keys.NAME.secret": f"{THIS}::test_a_key_stands_for_its_tenant_and_person",
    "auth.keys.NAME.tenant": f"{THIS}::test_a_key_stands_for_its_tenant_and_person",
    "auth.keys.NAME.person": f"{THIS}::test_a_key_stands_for_its_tenant_and_person",
    "auth.keys.NAME.rights": "tests/server/web/test_rights.py::test_a_route_requires_its_right",
    "auth.failures_per_minute": (
        "tests/server/web/test_throttle.py::test_wrong_keys_of_one_address_are_throttled"
    ),
    "auth.cookie_secret": f"{BROWSERS}::test_the_settings_name_the_secrets",
    "auth.previous_cookie_secret": f"{BROWSERS}::test_the_settings_name_the_secrets",
    "widget.token_requests_per_minute": f"{WIDGET}::test_tokens_of_one_address_are_limited",
    "widget.sites.NAME.key": f"{WIDGET}::test_a_token_is_for_pages_of_its_site_alone",
    "widget.sites.NAME.origins": f"{WIDGET}::test_a_token_is_for_pages_of_its_site_alone",
    "widget.sites.NAME.tenant": f"{WIDGET}::test_a_visitor_talks_with_a_token",
    "widget.sites.NAME.identity_secret": f"{IDENTITIES}::test_a_signed_identity_is_a_person",
    "widget.sites.NAME.identity_public_key": f"{IDENTITIES}::test_a_signed_identity_is_a_person",
    "widget.sites.NAME.require_identity": f"{IDENTITIES}::test_a_site_may_require_an_identity",
    "widget.sites.NAME.skills": f"{WIDGET}::test_a_site_may_have_some_of_the_skills",
    "widget.sites.NAME.collections": (
        "tests/skills/test_qa.py::test_answers_rest_on_the_collections_of_the_skill_and_the_site"
    ),
    "widget.sites.NAME.files": f"{WIDGET}::test_a_site_may_let_its_visitors_upload_files",
    "widget.sites.NAME.messages_per_minute": f"{WIDGET}::test_messages_of_a_visitor_are_limited",
    "widget.sites.NAME.new_visitors_per_minute": f"{WIDGET}::test_new_visitors_are_limited",
    "fetch.enabled": f"{TOOLS}::test_a_page_is_fetched_where_the_operator_allows_it",
    "fetch.hosts": f"{FETCHING}::test_only_listed_hosts_are_fetched",
    "fetch.only_written": (f"{FETCHING}::test_an_address_that_nobody_has_written_is_not_fetched"),
    "fetch.allowed_networks": f"{FETCHING}::test_a_page_is_fetched_as_it_is",
    "fetch.timeout": f"{FETCHING}::test_a_slow_server_is_given_up",
    "fetch.max_bytes": f"{FETCHING}::test_a_body_of_the_largest_size_is_read",
    "plugins.strict": f"{CHECK}::test_a_plugin_that_failed_is_named_and_fails_only_when_strict",
    "plugins.disabled": "tests/server/cli/test_cli.py::test_a_disabled_plugin_is_gone",
    "engine.use": f"{THIS}::test_backends_are_built_as_the_settings_choose",
    "engine.models.NAME.use": (
        "tests/server/test_models.py::test_a_skill_writes_with_the_model_of_its_settings"
    ),
    "engine.health_probe_interval": (
        "tests/server/engines/test_supervised.py::test_a_silent_crash_is_found_by_the_health_probe"
    ),
    "engine.health_probe_timeout": (
        "tests/server/engines/test_supervised.py::test_a_hang_is_found_by_the_health_probe"
    ),
    "engine.restart_backoff": f"{THIS}::test_a_dead_engine_is_restarted_after_the_backoff",
    "engine.timeout": f"{THIS}::test_a_generation_has_a_timeout",
    "engine.restart_timeout": (
        f"{CONTINUATION}::test_a_message_waits_no_longer_than_the_restart_timeout"
    ),
    "engine.max_attempts": (
        f"{CONTINUATION}"
        "::test_a_message_that_crashes_the_engine_in_each_attempt_fails_and_the_next_one_works"
    ),
    "ledger.use": f"{THIS}::test_backends_are_built_as_the_settings_choose",
    "ledger.history": f"{THIS}::test_a_skill_gets_no_more_history_than_set",
    "ledger.history_bytes": f"{LIMITS}::test_a_skill_gets_no_more_bytes_of_history_than_set",
    "knowledge.use": f"{THIS}::test_backends_are_built_as_the_settings_choose",
    "knowledge.read_timeout": LIMITED_FILES,
    "knowledge.read_memory_mib": LIMITED_FILES,
    "knowledge.max_file_bytes": LIMITED_FILES,
    "knowledge.max_text_characters": LIMITED_FILES,
    "knowledge.tool_collections": f"{TOOLS}::test_tools_search_the_collections_that_are_set",
    "files.store": f"{FILES}/test_objects.py::test_the_settings_choose_the_store",
    "files.max_file_bytes": (
        f"{FILES}/test_store.py::test_a_file_above_the_limit_is_refused_and_nothing_of_it_stays"
    ),
    "files.per_message": (
        f"{FILES}/test_store.py::test_the_files_of_a_message_are_limited_and_each_is_there_once"
    ),
    "files.person_count": f"{FILES}/test_store.py::test_a_person_has_no_more_files_than_set",
    "files.person_bytes": f"{FILES}/test_store.py::test_a_person_has_no_more_bytes_than_set",
    "files.tenant_bytes": f"{FILES}/test_store.py::test_a_tenant_has_no_more_bytes_than_set",
    "files.uploads": f"{FILES}/test_store.py::test_no_more_uploads_run_at_once_than_set",
    "files.expiry": f"{FILES}/test_sweeper.py::test_a_file_that_was_not_sent_expires",
    "jobs.max_running": f"{JOBS}::test_one_job_runs_at_a_time",
    "jobs.keep_days": f"{JOBS}::test_old_jobs_are_removed_when_another_one_is_created",
    "jobs.background": f"{JOBS}::test_the_program_computes_only_when_nobody_else_wants_to",
    "models.hub_token": (
        "tests/server/models/test_hub.py::test_a_gated_model_is_downloaded_with_the_token_of_the_settings"
    ),
    "models.server_ports": (
        "tests/server/web/test_setup_api.py::test_servers_of_this_machine_are_listed"
    ),
    "routing.default": f"{THIS}::test_the_default_skill_answers_when_no_skill_fits",
    "routing.threshold": f"{THIS}::test_a_choice_by_meaning_must_reach_the_threshold",
    "routing.margin": f"{THIS}::test_a_choice_by_meaning_must_lead_by_the_margin",
    "routing.consult_engine": f"{THIS}::test_the_engine_is_consulted_only_when_allowed",
    "routing.max_characters": f"{THIS}::test_a_long_message_is_not_compared_with_patterns",
    "dispatch.max_running": f"{THIS}::test_no_more_turns_run_at_once_than_set",
    "dispatch.lease": f"{THIS}::test_turns_are_leased_for_as_long_as_set",
    "dispatch.max_attempts": f"{THIS}::test_a_turn_fails_after_its_attempts",
    "dispatch.approval_timeout": (
        "tests/server/turns/test_approvals.py::test_a_late_approval_asks_again"
    ),
    "dispatch.max_reply_characters": f"{LIMITS}::test_a_reply_has_no_more_characters_than_set",
    "dispatch.max_journal_bytes": f"{LIMITS}::test_a_journal_has_no_more_bytes_than_set",
    "agents.steps": f"{AGENT}::test_limits_of_the_settings_hold_and_a_skill_cannot_exceed_them",
    "agents.calls": f"{AGENT}::test_limits_of_the_settings_hold_and_a_skill_cannot_exceed_them",
    "agents.tokens": f"{AGENT}::test_limits_of_the_settings_hold_and_a_skill_cannot_exceed_them",
    "agents.seconds": f"{AGENT}::test_limits_of_the_settings_hold_and_a_skill_cannot_exceed_them",
    "agents.calls_per_step": f"{AGENT}::test_the_settings_limit_a_step_and_what_is_repeated",
    "agents.result_bytes": f"{AGENT}::test_the_settings_limit_a_step_and_what_is_repeated",
    "agents.repeated_calls": f"{AGENT}::test_the_settings_limit_a_step_and_what_is_repeated",
    "agents.parallel_calls": f"{AGENT}::test_the_settings_limit_calls_side_by_side",
    "agents.depth": f"{AGENT}::test_the_settings_limit_the_depth_of_skills",
    "agents.tools": f"{ACTING}::test_it_uses_the_tools_of_the_settings",
    "dispatch.turn_timeout": "tests/server/turns/test_conversations.py::test_a_turn_has_a_timeout",
    "concurrency_policy.default": (
        f"{CONCURRENCY}::test_a_channels_policy_is_stronger_than_the_default"
    ),
    "concurrency_policy.channels": (
        f"{CONCURRENCY}::test_a_channels_policy_is_stronger_than_the_default"
    ),
    "concurrency_policy.skills": (
        f"{CONCURRENCY}::test_a_skills_own_policy_yields_only_to_a_setting_for_the_skill"
    ),
    "concurrency_policy.merge_window": f"{CONCURRENCY}::test_a_burst_becomes_one_turn",
    "admission.max_generations": (
        f"{SCHEDULED}::test_no_more_generations_run_at_once_than_there_are_slots"
    ),
    "admission.batch_share": f"{SCHEDULED}::test_batch_leaves_slots_free",
    "admission.reserved_share": f"{SCHEDULED}::test_a_reserve_is_left_for_other_tenants",
    "admission.lanes": f"{SCHEDULED}::test_a_channel_has_its_lane_and_the_engine_its_priority",
    "admission.queue_tokens": f"{ADMISSION}::test_a_full_queue_refuses",
    "admission.tenant_share": (
        f"{ADMISSION}::test_one_tenant_fills_its_share_and_leaves_room_for_others"
    ),
    "admission.inbox_limit": f"{THIS}::test_no_more_messages_wait_in_a_conversation_than_set",
    "admission.inbox_bytes": f"{LIMITS}::test_messages_that_wait_take_no_more_bytes_than_set",
    "admission.max_wait": f"{ADMISSION}::test_a_message_that_would_wait_too_long_is_refused",
    "admission.person.stored_bytes": f"{STORAGE}::test_a_person_has_a_quota",
    "admission.person.conversations": f"{STORAGE}::test_a_person_has_a_quota",
    "admission.tenant.stored_bytes": f"{STORAGE}::test_a_tenant_has_a_quota",
    "admission.tenant.conversations": f"{STORAGE}::test_a_tenant_has_a_quota",
    "admission.tenants.NAME.stored_bytes": f"{STORAGE}::test_a_tenant_has_a_quota",
    "admission.tenants.NAME.conversations": f"{STORAGE}::test_a_tenant_has_a_quota",
    "admission.max_data_requests": f"{DATA}::test_no_more_data_requests_run_at_once_than_set",
    "admission.person.data_requests_per_minute": (
        f"{DATA}::test_a_person_has_a_quota_of_data_requests"
    ),
    "admission.tenant.data_requests_per_minute": (
        f"{DATA}::test_a_tenant_has_a_quota_of_data_requests"
    ),
    "admission.tenants.NAME.data_requests_per_minute": (
        f"{DATA}::test_a_tenant_has_a_quota_of_data_requests"
    ),
    "admission.person.turns": f"{ADMISSION}::test_a_person_has_a_limit_of_unsettled_turns",
    "admission.person.messages_per_minute": (
        f"{ADMISSION}::test_a_person_has_a_quota_of_messages_per_minute"
    ),
    "admission.person.tokens_per_minute": (
        f"{ADMISSION}::test_a_quota_of_tokens_may_be_overdrawn_once"
    ),
    "admission.tenant.turns": f"{ADMISSION}::test_a_tenant_has_a_limit_of_unsettled_turns",
    "admission.tenant.messages_per_minute": (
        f"{ADMISSION}::test_a_tenant_has_a_quota_of_messages_per_minute"
    ),
    "admission.tenant.tokens_per_minute": (
        f"{ADMISSION}::test_a_quota_of_tokens_may_be_overdrawn_once"
    ),
    "admission.tenant.weight": f"{SCHEDULED}::test_tenants_have_weights",
    "admission.tenants.NAME.turns": (f"{ADMISSION}::test_a_tenant_has_a_limit_of_unsettled_turns"),
    "admission.tenants.NAME.messages_per_minute": (
        f"{ADMISSION}::test_a_tenant_has_a_quota_of_messages_per_minute"
    ),
    "admission.tenants.NAME.tokens_per_minute": (
        f"{ADMISSION}::test_a_quota_of_tokens_may_be_overdrawn_once"
    ),
    "admission.tenants.NAME.weight": f"{SCHEDULED}::test_tenants_have_weights",
    "channels.enabled": f"{THIS}::test_only_enabled_channels_open_routes",
    "embedding.use": "tests/server/test_embedding.py::test_the_setting_chooses_what_embeds",
    "tool_sources.enabled": f"{THIS}::test_only_enabled_sources_offer_tools",
    "interceptors.enabled": f"{THIS}::test_only_enabled_interceptors_wrap_turns",
    "skills": f"{THIS}::test_a_skill_is_built_with_its_settings",
}


OPENAI = "tests/plugins/engines/test_openai.py"
VLLM = "tests/plugins/engines/test_vllm.py"
LLAMACPP = "tests/plugins/engines/test_llamacpp.py"
REDIS = "tests/plugins/ledgers/test_redis.py"
RETENTION = "tests/plugins/ledgers/test_retention.py"
CONTRACT = "tests/plugins/ledgers/test_contract_streams.py"
SKILLS = "tests/skills/test_settings.py"

COVERED_OF_PLUGINS = {
    "channels.discord.direct_messages": (
        f"{DISCORD}/test_messages.py::test_direct_messages_are_answered_without_a_mention"
    ),
    "channels.discord.groups": (
        f"{DISCORD}/test_messages.py::test_rooms_that_are_not_listed_are_silent_and_threads_are_as_their_channels"
    ),
    "channels.discord.people": (
        f"{DISCORD}/test_messages.py::test_people_who_may_write_direct_messages"
    ),
    "channels.discord.rooms": (
        f"{DISCORD}/test_messages.py::test_rooms_that_are_not_listed_are_silent_and_threads_are_as_their_channels"
    ),
    "channels.discord.bots": (
        f"{DISCORD}/test_messages.py::test_messages_of_bots_are_limited_where_they_are_answered"
    ),
    "channels.discord.bot_turns": (
        f"{DISCORD}/test_messages.py::test_messages_of_bots_are_limited_where_they_are_answered"
    ),
    "channels.discord.token": (f"{DISCORD}/test_settings.py::test_a_bad_token"),
    "channels.discord.message_content": (f"{DISCORD}/test_settings.py::test_the_intent_is_off"),
    "channels.discord.threads": (
        f"{DISCORD}/test_messages.py::test_a_message_is_answered_in_a_thread_that_goes_on_without_mentions"
    ),
    "channels.discord.interactions": (
        f"{DISCORD}/test_interactions.py::test_without_the_setting_there_is_no_endpoint"
    ),
    "channels.discord.public_key": (
        f"{DISCORD}/test_settings.py::test_the_public_key_and_the_address_of_the_endpoint"
    ),
    "channels.discord.shards": (f"{DISCORD}/test_gateway.py::test_each_shard_has_a_connection"),
    "channels.discord.tenant": (
        f"{DISCORD}/test_messages.py::test_direct_messages_have_the_tenant_of_the_settings"
    ),
    "channels.discord.tenants": (f"{DISCORD}/test_messages.py::test_each_server_has_its_tenant"),
    "channels.discord.api_url": (f"{DISCORD}/test_settings.py::test_discord_cannot_be_reached"),
    "channels.slack.direct_messages": (
        f"{SLACK}/test_messages.py::test_a_stranger_gets_a_code_for_direct_messages"
    ),
    "channels.slack.groups": (
        f"{SLACK}/test_messages.py::test_a_thread_of_a_listed_channel_is_listed_too"
    ),
    "channels.slack.people": (
        f"{SLACK}/test_messages.py::test_only_listed_people_may_write_direct_messages"
    ),
    "channels.slack.rooms": (
        f"{SLACK}/test_messages.py::test_a_thread_of_a_listed_channel_is_listed_too"
    ),
    "channels.slack.bots": (
        f"{SLACK}/test_messages.py::test_bots_that_may_write_are_answered_a_few_times"
    ),
    "channels.slack.bot_turns": (
        f"{SLACK}/test_messages.py::test_bots_that_may_write_are_answered_a_few_times"
    ),
    "channels.slack.mode": (
        f"{SLACK}/test_socket_mode.py::test_messages_commands_and_buttons_arrive_by_the_socket"
    ),
    "channels.slack.token": (
        f"{SLACK}/test_checks.py::test_a_token_that_slack_refuses_is_one_sentence"
    ),
    "channels.slack.signing_secret": (
        f"{SLACK}/test_requests.py::test_a_request_signed_with_another_secret_is_refused"
    ),
    "channels.slack.app_token": (
        f"{SLACK}/test_socket_mode.py::test_a_wrong_app_token_is_one_sentence"
    ),
    "channels.slack.tenant": f"{SLACK}/test_messages.py::test_the_tenant_is_that_of_the_settings",
    "channels.slack.client_id": (
        f"{SLACK}/test_oauth.py::test_an_installed_workspace_is_answered_and_is_a_tenant"
    ),
    "channels.slack.client_secret": (
        f"{SLACK}/test_checks.py::test_a_client_that_slack_does_not_know_is_one_sentence"
    ),
    "channels.slack.tenants": f"{SLACK}/test_oauth.py::test_workspaces_can_be_given_tenants",
    "channels.slack.public_url": (
        f"{SLACK}/test_oauth.py::test_the_public_address_is_where_slack_sends_back"
    ),
    "channels.slack.command": (
        f"{SLACK}/test_manifest.py::test_the_settings_decide_about_names_and_the_agent"
    ),
    "channels.slack.agent": (
        f"{SLACK}/test_messages.py::"
        "test_direct_messages_to_an_app_that_is_no_agent_are_one_conversation"
    ),
    "channels.slack.display_name": (
        f"{SLACK}/test_manifest.py::test_the_settings_decide_about_names_and_the_agent"
    ),
    "channels.slack.api_url": (f"{SLACK}/test_checks.py::test_addresses_may_end_in_a_slash_or_not"),
    "channels.a2a.url": f"{A2A}/test_a2a.py::test_the_settings_name_the_agent_and_its_address",
    "channels.a2a.name": f"{A2A}/test_a2a.py::test_the_settings_name_the_agent_and_its_address",
    "channels.a2a.description": (
        f"{A2A}/test_a2a.py::test_the_settings_name_the_agent_and_its_address"
    ),
    "channels.a2a.allowed_networks": (
        f"{A2A}/test_push.py::test_addresses_within_the_network_are_refused"
    ),
    "channels.mcp.tools": f"{MCP_CHANNEL}/test_content.py::test_an_allowed_tool_runs_in_a_turn",
    "channels.mcp.documents": f"{MCP_CHANNEL}/test_content.py::test_documents_can_be_left_out",
    "channels.mcp.url": f"{MCP_CHANNEL}/test_security.py::test_the_public_address_is_the_only_host",
    "channels.mcp.authorization_servers": (
        f"{MCP_CHANNEL}/test_security.py::test_without_a_key_a_client_learns_where_to_get_one"
    ),
    "channels.webhooks.endpoints.NAME.secret": (
        f"{WEBHOOKS}/test_inbound.py::test_a_secret_is_for_its_endpoint_alone"
    ),
    "channels.webhooks.endpoints.NAME.previous_secret": (
        f"{WEBHOOKS}/test_inbound.py::test_both_secrets_are_accepted_while_rotating"
    ),
    "channels.webhooks.endpoints.NAME.tenant": (
        f"{WEBHOOKS}/test_inbound.py::test_a_message_belongs_to_the_tenant_of_its_endpoint"
    ),
    "channels.webhooks.endpoints.NAME.callback": (
        f"{WEBHOOKS}/test_callbacks.py::test_a_reply_is_posted_with_a_signature"
    ),
    "channels.webhooks.endpoints.NAME.allowed_networks": (
        f"{WEBHOOKS}/test_callbacks.py::test_a_callback_that_dns_moves_inside_is_not_called"
    ),
    "engine.openai.urls": f"{OPENAI}::test_a_server_that_is_not_there_is_unavailable",
    "engine.openai.api_key": f"{OPENAI}::test_the_key_is_sent",
    "engine.openai.vision": "tests/plugins/engines/test_openai_vision.py::test_the_setting_decides",
    "engine.openai.tools": "tests/plugins/engines/test_openai_tools.py::test_the_setting_decides",
    "engine.openai.capabilities": f"{OPENAI}::test_settings_override_what_the_server_declares",
    "engine.openai.embedding_model": (
        f"{OPENAI}::test_vectors_have_unit_length_and_the_texts_order"
    ),
    "engine.openai.read_timeout": (
        f"{OPENAI}::test_a_server_that_sends_nothing_fails_after_the_read_timeout"
    ),
    "engine.openvino.model": f"{CHECK}::test_a_damaged_model_is_reported_with_its_file",
    "engine.llamacpp.model": (
        f"{LLAMACPP}::test_a_model_that_llamacpp_cannot_load_gets_one_sentence"
    ),
    "engine.llamacpp.context_window": (
        f"{LLAMACPP}::test_a_small_cache_limits_the_context_and_a_tiny_one_is_refused"
    ),
    "engine.llamacpp.kv_cache_mib": (
        f"{LLAMACPP}::test_a_small_cache_limits_the_context_and_a_tiny_one_is_refused"
    ),
    "engine.llamacpp.kv_cache_type": f"{LLAMACPP}::test_the_settings_reach_llamacpp",
    "engine.llamacpp.slots": f"{LLAMACPP}::test_the_settings_reach_llamacpp",
    "engine.llamacpp.threads": f"{LLAMACPP}::test_the_settings_reach_llamacpp",
    "engine.llamacpp.max_batched_tokens": f"{LLAMACPP}::test_the_settings_reach_llamacpp",
    "engine.llamacpp.chat_template": f"{LLAMACPP}::test_the_chat_template_may_be_a_file",
    "engine.llamacpp.startup_timeout": f"{LLAMACPP}::test_a_start_that_takes_too_long_is_ended",
    "engine.transformers.model": (
        "tests/plugins/engines/test_conformance.py"
        "::test_a_broken_model_is_a_configuration_error_that_names_it"
    ),
    "engine.transformers.embedding_model": (
        "tests/plugins/engines/test_transformers.py"
        "::test_an_encoder_embeds_alike_alone_and_among_longer_texts"
    ),
    "engine.vllm.model": f"{VLLM}::test_an_interpreter_that_is_missing_is_named",
    "engine.vllm.python": f"{VLLM}::test_an_interpreter_that_is_missing_is_named",
    "engine.vllm.environment": (f"{VLLM}::test_the_vllm_process_gets_no_secret_of_the_environment"),
    "engine.vllm.startup_timeout": f"{VLLM}::test_a_start_that_takes_too_long_is_ended",
    "engine.vllm.adapters": f"{VLLM}::test_adapters_change_the_reply",
    "engine.vllm.embedding_model": f"{VLLM}::test_vectors_differ_between_texts",
    "engine.vllm.classifier_model": f"{VLLM}::test_labels_have_probabilities",
    "engine.vllm.max_num_seqs": f"{VLLM}::test_the_lower_priority_number_gets_the_next_slot",
    "engine.vllm.arguments": (f"{VLLM}::test_arguments_that_load_code_or_open_ports_are_refused"),
    "ledger.redis.url": f"{REDIS}::test_a_url_is_given_plainly_or_by_reference",
    "ledger.redis.sentinel_password": (
        "tests/plugins/ledgers/test_redis_sentinel.py::test_sentinels_that_cannot_help_are_named"
    ),
    "ledger.redis.prefix": f"{REDIS}::test_other_conversations_and_prefixes_share_a_server",
    "ledger.redis.partitions": f"{REDIS}::test_another_count_of_partitions_is_refused",
    "ledger.redis.allow_weak_durability": (
        f"{REDIS}::test_a_redis_that_loses_writes_is_refused_unless_permitted"
    ),
    "ledger.redis.replicas": (
        "tests/plugins/ledgers/test_redis_replicas.py::test_a_failover_keeps_what_the_replica_confirmed"
    ),
    "ledger.redis.retention_days": (
        f"{RETENTION}::test_redis_keeps_everything_forever_with_zero_days"
    ),
    "ledger.redis.events_kept": f"{CONTRACT}::test_a_long_stream_is_trimmed_when_a_turn_ends",
    "ledger.sqlite.path": (
        "tests/plugins/ledgers/test_sqlite.py::test_the_hook_contributes_the_ledger_and_its_settings"
    ),
    "ledger.sqlite.retention_days": (f"{RETENTION}::test_retention_is_applied_at_the_start"),
    "ledger.sqlite.max_bytes": f"{ROOM}::test_a_full_file_accepts_nothing_and_ends_its_turns",
    "ledger.sqlite.min_free_bytes": f"{ROOM}::test_a_full_disk_accepts_nothing_and_ends_its_turns",
    "ledger.sqlite.events_kept": f"{CONTRACT}::test_a_long_stream_is_trimmed_when_a_turn_ends",
    **{
        f"embedding.sentence_transformers.{key}": (
            f"{EMBEDDERS}::test_a_converted_network_is_used_without_torch"
        )
        for key in ("prompt", "threads")
    },
    **{
        f"embedding.sentence_transformers.{key}": (
            f"{EMBEDDERS}::test_settings_that_name_no_model_are_refused"
        )
        for key in ("model", "network")
    },
    "knowledge.qdrant.url": f"{QDRANT}::test_a_server_that_is_away_ends_the_start",
    "knowledge.qdrant.api_key": f"{QDRANT}::test_the_right_key_opens_the_server",
    "knowledge.qdrant.prefix": f"{QDRANT}::test_a_prefix_separates_the_documents_of_servers",
    "knowledge.qdrant.timeout": (
        f"{QDRANT}::test_a_server_that_does_not_answer_ends_the_search_with_a_sentence"
    ),
    "knowledge.qdrant.similarity_floor": FLOOR,
    "knowledge.qdrant.embeddings": (f"{QDRANT}::test_without_embeddings_words_alone_are_searched"),
    "knowledge.redis.url": f"{REDIS_SEARCH}::test_a_server_that_is_away_ends_the_start",
    "knowledge.redis.password": f"{REDIS_SEARCH}::test_a_wrong_password_is_a_configuration_error",
    "knowledge.redis.prefix": f"{REDIS_SEARCH}::test_a_prefix_separates_the_documents_of_servers",
    "knowledge.redis.timeout": (
        f"{REDIS_SEARCH}::test_a_server_that_does_not_answer_ends_the_search_with_a_sentence"
    ),
    "knowledge.redis.similarity_floor": FLOOR,
    "knowledge.redis.embeddings": (
        f"{REDIS_SEARCH}::test_without_embeddings_words_alone_are_searched"
    ),
    "knowledge.sqlite.search_timeout": (
        "tests/plugins/knowledge/test_sqlite.py::test_a_search_that_takes_too_long_is_refused"
    ),
    "knowledge.sqlite.similarity_floor": FLOOR,
    "knowledge.sqlite.embeddings": (
        "tests/plugins/knowledge/test_sqlite.py::test_search_by_meaning_finds_documents_without_a_shared_word"
    ),
    "knowledge.sqlite.vector_memory_mib": (
        "tests/plugins/knowledge/test_sqlite.py::test_vectors_that_need_more_memory_than_set_are_not_searched"
    ),
    "interceptors.blocklist.patterns": (
        "tests/plugins/interceptors/test_blocklist.py::test_a_blocked_message_reaches_no_skill"
    ),
    "interceptors.blocklist.sentence": (
        "tests/plugins/interceptors/test_blocklist.py::test_a_blocked_message_reaches_no_skill"
    ),
    "skills.chat.system": "tests/skills/test_chat.py::test_its_settings_reach_the_engine",
    "skills.chat.temperature": "tests/skills/test_chat.py::test_its_settings_reach_the_engine",
    "skills.chat.max_tokens": "tests/skills/test_chat.py::test_its_settings_reach_the_engine",
    "skills.agent.system": f"{ACTING}::test_its_own_setting_goes_before_that_of_all_agents",
    "skills.agent.tools": f"{ACTING}::test_its_own_setting_goes_before_that_of_all_agents",
    "skills.agent.temperature": f"{ACTING}::test_its_own_setting_goes_before_that_of_all_agents",
    "skills.agent.max_tokens": f"{ACTING}::test_the_longest_text_of_a_step_is_a_setting",
    "skills.codegen.temperature": f"{SKILLS}::test_the_temperature_reaches_the_engine",
    "skills.codegen.max_tokens": f"{SKILLS}::test_the_longest_reply_reaches_the_engine",
    "skills.qa.passages": f"{SKILLS}::test_the_model_reads_as_many_passages_as_set",
    "skills.qa.collections": (
        "tests/skills/test_qa.py::test_answers_rest_on_the_collections_of_the_skill_and_the_site"
    ),
    "skills.qa.max_characters": f"{SKILLS}::test_a_question_above_the_limit_is_refused",
    "skills.qa.temperature": f"{SKILLS}::test_the_temperature_reaches_the_engine",
    "skills.qa.max_tokens": f"{SKILLS}::test_the_longest_reply_reaches_the_engine",
    "skills.summarization.max_characters": f"{SKILLS}::test_a_summary_above_the_limit_is_refused",
    "skills.summarization.temperature": f"{SKILLS}::test_the_temperature_reaches_the_engine",
    "skills.summarization.max_tokens": f"{SKILLS}::test_the_longest_reply_reaches_the_engine",
    "skills.summarization.max_parts": (
        "tests/skills/test_summarization.py::test_a_text_that_is_far_too_long_is_refused"
    ),
    "skills.translation.temperature": f"{SKILLS}::test_the_temperature_reaches_the_engine",
    "skills.translation.max_characters": f"{SKILLS}::test_a_text_above_the_limit_is_refused",
    "skills.translation.piece_tokens": (
        f"{SKILLS}::test_a_long_text_is_translated_in_pieces_of_the_set_length"
    ),
    "tool_sources.a2a.agents.NAME.url": (
        f"{A2A_TOOLS}/test_agents.py::test_an_agent_of_the_official_library_is_asked"
    ),
    "tool_sources.a2a.agents.NAME.token": (
        f"{A2A_TOOLS}/test_hostile.py::test_the_token_goes_to_the_agent_alone"
    ),
    "tool_sources.a2a.agents.NAME.allowed_networks": (
        f"{A2A_TOOLS}/test_hostile.py::test_an_agent_is_not_found_within_the_network"
    ),
    "tool_sources.a2a.agents.NAME.read_only": (
        f"{A2A_TOOLS}/test_hostile.py::test_the_operator_says_what_the_tool_is"
    ),
    "tool_sources.a2a.agents.NAME.idempotent": (
        f"{A2A_TOOLS}/test_takeover.py::test_a_server_dies_between_the_message_and_its_answer"
    ),
    "tool_sources.a2a.agents.NAME.needs_approval": (
        f"{A2A_TOOLS}/test_hostile.py::test_the_operator_says_what_the_tool_is"
    ),
    "tool_sources.a2a.agents.NAME.timeout": (
        f"{A2A_TOOLS}/test_hostile.py::test_an_endless_answer_ends_at_the_timeout"
    ),
    "tool_sources.a2a.agents.NAME.max_timeout": (
        f"{A2A_TOOLS}/test_agents.py::test_a_task_has_a_limit_of_time"
    ),
    "tool_sources.a2a.agents.NAME.refresh": (
        f"{A2A_TOOLS}/test_hostile.py::test_a_changed_card_needs_another_approval"
    ),
    "tool_sources.a2a.agents.NAME.max_description_characters": (
        f"{A2A_TOOLS}/test_hostile.py::test_the_description_is_cleaned_and_cut"
    ),
    "tool_sources.a2a.agents.NAME.max_result_characters": (
        f"{A2A_TOOLS}/test_hostile.py::test_results_are_cleaned_and_cut_and_name_files"
    ),
    "tool_sources.a2a.agents.NAME.max_message_bytes": (
        f"{A2A_TOOLS}/test_hostile.py::test_an_answer_may_be_as_large_as_the_settings_say"
    ),
    "tool_sources.mcp.servers.NAME.command": (
        f"{MCP_TOOLS}/test_stdio.py::test_a_skill_calls_an_approved_tool"
    ),
    "tool_sources.mcp.servers.NAME.args": (
        f"{MCP_TOOLS}/test_stdio.py::test_a_skill_calls_an_approved_tool"
    ),
    "tool_sources.mcp.servers.NAME.env": (
        f"{MCP_TOOLS}/test_stdio.py::test_the_directory_and_the_secrets_are_those_of_the_settings"
    ),
    "tool_sources.mcp.servers.NAME.secrets": (
        f"{MCP_TOOLS}/test_stdio.py::test_the_directory_and_the_secrets_are_those_of_the_settings"
    ),
    "tool_sources.mcp.servers.NAME.directory": (
        f"{MCP_TOOLS}/test_stdio.py::test_the_directory_and_the_secrets_are_those_of_the_settings"
    ),
    "tool_sources.mcp.servers.NAME.url": (
        f"{MCP_TOOLS}/test_http.py::test_a_server_that_comes_later_is_found"
    ),
    "tool_sources.mcp.servers.NAME.token": (
        f"{MCP_TOOLS}/test_http.py::test_the_token_goes_to_the_server_and_nowhere_else"
    ),
    "tool_sources.mcp.servers.NAME.oauth.client_id": (
        f"{MCP_TOOLS}/test_oauth.py::test_the_newest_refresh_token_is_kept_for_the_next_process"
    ),
    "tool_sources.mcp.servers.NAME.oauth.client_secret": (
        f"{MCP_TOOLS}/test_oauth.py::test_client_credentials_give_tokens_that_are_renewed"
    ),
    "tool_sources.mcp.servers.NAME.oauth.refresh_token": (
        f"{MCP_TOOLS}/test_oauth.py::test_the_newest_refresh_token_is_kept_for_the_next_process"
    ),
    "tool_sources.mcp.servers.NAME.oauth.issuer": (
        f"{MCP_TOOLS}/test_oauth.py::test_credentials_go_to_their_issuer_alone"
    ),
    "tool_sources.mcp.servers.NAME.oauth.scope": (
        f"{MCP_TOOLS}/test_oauth.py::test_client_credentials_give_tokens_that_are_renewed"
    ),
    "tool_sources.mcp.servers.NAME.allowed_networks": (
        f"{MCP_TOOLS}/test_http.py::test_private_addresses_are_reached_only_when_the_settings_allow_them"
    ),
    "tool_sources.mcp.servers.NAME.tools": (
        f"{MCP_TOOLS}/test_definitions.py::test_the_settings_allow_tools_and_know_what_they_do"
    ),
    "tool_sources.mcp.servers.NAME.read_only": (
        f"{MCP_TOOLS}/test_definitions.py::test_the_settings_allow_tools_and_know_what_they_do"
    ),
    "tool_sources.mcp.servers.NAME.idempotent": (
        f"{MCP_TOOLS}/test_stdio.py::test_an_idempotent_tool_is_called_again_once"
    ),
    "tool_sources.mcp.servers.NAME.needs_approval": (
        f"{MCP_TOOLS}/test_definitions.py::test_the_settings_allow_tools_and_know_what_they_do"
    ),
    "tool_sources.mcp.servers.NAME.trust_annotations": (
        f"{MCP_TOOLS}/test_definitions.py::test_the_settings_allow_tools_and_know_what_they_do"
    ),
    "tool_sources.mcp.servers.NAME.timeout": (
        f"{MCP_TOOLS}/test_stdio.py::test_progress_extends_a_call_up_to_a_limit"
    ),
    "tool_sources.mcp.servers.NAME.max_timeout": (
        f"{MCP_TOOLS}/test_stdio.py::test_progress_extends_a_call_up_to_a_limit"
    ),
    "tool_sources.mcp.servers.NAME.connect_timeout": (
        f"{MCP_TOOLS}/test_hostile.py::test_a_server_without_a_list_is_named"
    ),
    "tool_sources.mcp.servers.NAME.refresh": (
        f"{MCP_TOOLS}/test_hostile.py::test_a_changed_definition_is_found_at_the_next_list"
    ),
    "tool_sources.mcp.servers.NAME.max_tools": (
        f"{MCP_TOOLS}/test_hostile.py::test_a_strange_list_is_bounded"
    ),
    "tool_sources.mcp.servers.NAME.max_description_characters": (
        f"{MCP_TOOLS}/test_definitions.py"
        "::test_a_description_is_one_line_without_hidden_characters_and_is_cut"
    ),
    "tool_sources.mcp.servers.NAME.max_result_characters": (
        f"{MCP_TOOLS}/test_hostile.py::test_results_that_are_huge_endless_or_never_come"
    ),
    "tool_sources.mcp.servers.NAME.max_message_bytes": (
        f"{MCP_TOOLS}/test_hostile.py::test_a_result_above_the_limit_of_a_message_ends_the_connection"
    ),
}
UNCOVERED_OF_PLUGINS = {
    "engine.openai.connect_timeout",
    "engine.openai.context_window",
    "engine.openai.embedding_urls",
    "engine.openai.flavor",
    "engine.openai.model",
    "engine.openvino.kv_cache_mib",
    "engine.openvino.context_window",
    "engine.openvino.int8_weights",
    "engine.openvino.batch_invariant",
    "engine.openvino.slots",
    "engine.openvino.prefix_caching",
    "engine.openvino.max_batched_tokens",
    "engine.openvino.threads",
    "engine.transformers.classifier_model",
    "engine.transformers.context_window",
    "engine.transformers.device",
    "engine.transformers.dtype",
    "engine.transformers.load_model",
    "engine.transformers.slots",
    "engine.transformers.max_prefill_tokens",
    "engine.transformers.threads",
    "engine.vllm.block_size",
    "engine.vllm.device",
    "engine.vllm.dtype",
    "engine.vllm.enforce_eager",
    "engine.vllm.gpu_memory_utilization",
    "engine.vllm.kv_cache_memory_bytes",
    "engine.vllm.max_model_len",
    "engine.vllm.processes",
    "engine.vllm.threads",
    "ledger.redis.command_timeout",
    "ledger.redis.connect_timeout",
    "ledger.redis.history_kept",
    "skills.codegen.language",
}
"""Those that no test would miss: they change speed, memory or hardware, or are handed on as they
are. A new key does not belong here."""


def test_every_setting_has_a_test() -> None:
    assert set(COVERED) == {row.key for row in list_settings(Settings)}


def test_every_setting_of_a_plugin_has_a_test_or_is_listed() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "settings-reference"))
    keys = {
        row.key
        for section, models in plugin_models(script["own_plugins"]()).items()
        for name, model in models.items()
        for row in list_settings(model, f"{section}.{name}.")
    }
    assert set(COVERED_OF_PLUGINS) | UNCOVERED_OF_PLUGINS == keys
    assert not set(COVERED_OF_PLUGINS) & UNCOVERED_OF_PLUGINS


@pytest.mark.parametrize("test", sorted({*COVERED.values(), *COVERED_OF_PLUGINS.values()}))
def test_the_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert re.search(rf"def {name}\(", (ROOT / path).read_text(encoding="utf-8"))


# Settings in few words


def settings(
    admission: AdmissionSettings | None = None,
    dispatch: DispatchSettings | None = None,
    engine: EngineSettings | None = None,
    ledger: LedgerSettings | None = None,
    routing: RoutingSettings | None = None,
    server: ServerSettings | None = None,
) -> Settings:
    return Settings(
        admission=admission or AdmissionSettings(),
        dispatch=dispatch or DispatchSettings(),
        engine=engine or EngineSettings(),
        ledger=ledger or LedgerSettings(),
        routing=routing or RoutingSettings(default="parrot", consult_engine=False),
        server=server or ServerSettings(),
    )


# Server


async def test_the_server_listens_at_its_port() -> None:
    port = free_port()
    chosen = settings(server=ServerSettings(port=port))
    async with converse(Parrot, settings=chosen) as chat, listening(chat.server):
        async with ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/healthz") as response:
                assert response.status == 200


def test_pages_of_named_origins_may_use_the_server() -> None:
    request = make_mocked_request("GET", "/ws", {"Host": "localhost", "Origin": "https://a.org"})
    Authenticator(settings(server=ServerSettings(origins=("https://a.org",)))).check_origin(request)
    with pytest.raises(Forbidden):
        Authenticator(settings()).check_origin(request)


async def test_a_message_above_the_limit_is_refused() -> None:
    chosen = settings(server=ServerSettings(max_message_bytes=1000))
    async with converse(Parrot, settings=chosen, engine=ScriptedEngine("short")) as chat:
        assert await chat.say("x" * 1000) == "short"
        with pytest.raises(TooLarge):
            await chat.send("x" * 1001)


@pytest.mark.parametrize(("drain", "outcomes"), [(5.0, ["done"]), (0.0, [])])
async def test_a_stopping_server_gives_turns_time_to_end(drain: float, outcomes: list[str]) -> None:
    ledger, engine = MemoryLedger(), ScriptedEngine(ScriptedReply(text="one two", pause_after=1))
    chosen = settings(server=ServerSettings(drain=drain))
    async with converse(Parrot, settings=chosen, engine=engine, ledger=ledger) as chat:
        turn = await chat.send("count")
        await chat.recorder.wait_for(turn, text="one")
        asyncio.get_running_loop().call_later(0.1, engine.resume)
    held = await ledger.snapshot(chat.conversation, 10)
    assert [line.outcome for line in held.history if line.role == "assistant"] == outcomes


def test_a_key_stands_for_its_tenant_and_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOB", "the secret key of bob\n")
    key = AuthKey(secret=Secret("env:BOB"), tenant="acme", person="bob")
    authenticator = Authenticator(Settings(auth=AuthSettings(keys={"k": key})))
    authenticator.load_keys()
    principal = authenticator.find_principal("the secret key of bob")
    assert principal is not None
    assert (principal.tenant, principal.person) == ("acme", "bob")


# Backends


async def build(tmp_path: Path, **sections: object) -> Server:
    """Build a server from the kit's plugins."""
    point = importlib.metadata.EntryPoint("kit", settings_plugin.__name__, "palaver")
    tree = {
        "server": {"data": tmp_path, "port": 0},
        "engine": {"use": "echo"},
        "ledger": {"use": "memory"},
        "knowledge": {"use": "list"},
    }
    chosen = Settings.model_validate(tree | sections)
    return await asyncio.to_thread(build_server, chosen, load_plugins([point]))


async def test_backends_are_built_as_the_settings_choose(tmp_path: Path) -> None:
    server = await build(tmp_path, engine={"use": "echo", "echo": {"lacks": ["embed"]}})
    async with server:
        assert server.engine_info.model == "scripted"
        assert "embed" not in server.engine_info.capabilities
        assert type(server.ledger).__name__ == "MemoryLedger"
        assert type(server.knowledge).__name__ == "ListKnowledge"


async def reply_of(server: Server) -> str:
    async with server:
        chat = ChatClient(server, Conversation("default", "test", "main"), "alice")
        subscription = await server.subscribe(chat.conversation, chat.recorder)
        try:
            return await chat.say("ho")
        finally:
            server.unsubscribe(subscription)


async def test_a_skill_is_built_with_its_settings(tmp_path: Path) -> None:
    assert await reply_of(await build(tmp_path, skills={"parrot": {"volume": 3}})) == "hohoho"


async def test_only_enabled_sources_offer_tools(tmp_path: Path) -> None:
    assert not (await build(tmp_path)).tool_sources
    server = await build(tmp_path, tool_sources={"enabled": ["box"]})
    assert server.tool_sources["box"].problems == ("it is empty",)


async def test_only_enabled_interceptors_wrap_turns(tmp_path: Path) -> None:
    assert await reply_of(await build(tmp_path)) == "ho"
    enabled = {"enabled": ["shout"]}
    assert await reply_of(await build(tmp_path, interceptors=enabled)) == "ho!"


@pytest.mark.parametrize(("enabled", "status"), [(["bell"], 200), ([], 404)])
async def test_only_enabled_channels_open_routes(
    tmp_path: Path, enabled: list[str], status: int
) -> None:
    server = await build(tmp_path, channels={"enabled": enabled})
    async with server, listening(server) as address, ClientSession() as session:
        async with session.get(address + "bell") as response:
            assert response.status == status


# Engine


@pytest.mark.parametrize("backoff", [0.25, 7.0])
def test_a_dead_engine_is_restarted_after_the_backoff(backoff: float) -> None:
    async def seconds_until_it_is_up() -> float:
        inner = ScriptedEngine()
        chosen = EngineSettings(health_probe_interval=2.0, restart_backoff=backoff)
        engine = SupervisedEngine(inner, chosen, Metrics().of_model())
        await engine.start()
        inner.crash()
        while not engine.problem:  # noqa: ASYNC110  supervision sets no event
            await asyncio.sleep(0.001)
        began = asyncio.get_running_loop().time()
        await engine.wait_until_up()
        await engine.close()
        return asyncio.get_running_loop().time() - began

    assert run_in_virtual_time(seconds_until_it_is_up()) == pytest.approx(backoff, abs=0.01)


async def test_a_generation_has_a_timeout() -> None:
    engine = ScriptedEngine(ScriptedReply(text="one two", pause_after=1))
    chosen = settings(engine=EngineSettings(timeout=0.05))
    async with converse(Parrot, settings=chosen, engine=engine) as chat:
        reply = await chat.say("count")
    assert reply.problem is not None
    assert reply.problem.code == "engine_timeout"


async def test_a_skill_gets_no_more_history_than_set() -> None:
    engine = ScriptedEngine(lambda _: "yes")
    chosen = settings(ledger=LedgerSettings(history=2))
    async with converse(Parrot, settings=chosen, engine=engine) as chat:
        for number in range(4):
            await chat.say(f"{number}")
    assert [message.content for message in engine.requests[-1].messages] == ["2", "yes", "3"]


# Routing


class Poet(Skill):
    """Write a poem."""

    name = "poet"
    examples = (
        "write a poem about rain",
        "a short poem please",
        "compose some verses",
        "rhyme on love",
        "an ode to the sea",
        "a haiku of three lines",
    )
    patterns = ("verse: .+",)

    async def answer(self, turn: Turn) -> None:
        await turn.say("O!")


async def routed(text: str, chosen: RoutingSettings, engine: ScriptedEngine | None = None) -> str:
    engine = engine or ScriptedEngine()
    router = Router(
        {"parrot": Parrot, "poet": Poet},
        settings=chosen,
        engine=engine,
        engine_info=await engine.start(),
    )
    message = Message(
        conversation=Conversation("default", "test", "main"), id="1", person="alice", text=text
    )
    await router.route(message)
    await router.wait_for_trial()
    return (await router.route(message)).skill


POEM = "write a poem about rain"
STRICTEST = {"threshold": 1.0, "consult_engine": False}


@pytest.mark.parametrize("default", ["parrot", "poet"])
async def test_the_default_skill_answers_when_no_skill_fits(default: str) -> None:
    chosen = RoutingSettings.model_validate({"default": default, **STRICTEST})
    assert await routed("qwertz", chosen) == default


@pytest.mark.parametrize(("limit", "skill"), [(100, "poet"), (10, "parrot")])
async def test_a_long_message_is_not_compared_with_patterns(limit: int, skill: str) -> None:
    chosen = RoutingSettings.model_validate(
        {"default": "parrot", "max_characters": limit, **STRICTEST}
    )
    assert await routed("verse: qwertz", chosen) == skill


@pytest.mark.parametrize(("threshold", "skill"), [(0.0, "poet"), (1.0, "parrot")])
async def test_a_choice_by_meaning_must_reach_the_threshold(threshold: float, skill: str) -> None:
    chosen = RoutingSettings(
        default="parrot", threshold=threshold, margin=0.0, consult_engine=False
    )
    assert await routed(POEM, chosen) == skill


@pytest.mark.parametrize(("margin", "skill"), [(0.0, "poet"), (1.0, "parrot")])
async def test_a_choice_by_meaning_must_lead_by_the_margin(margin: float, skill: str) -> None:
    chosen = RoutingSettings(default="parrot", threshold=0.0, margin=margin, consult_engine=False)
    assert await routed(POEM, chosen) == skill


@pytest.mark.parametrize("consult", [True, False])
async def test_the_engine_is_consulted_only_when_allowed(consult: bool) -> None:
    engine = ScriptedEngine(
        lambda request: "parrot" if request.messages[-1].content in Parrot.examples else "poet"
    )
    chosen = RoutingSettings(default="parrot", threshold=1.0, consult_engine=consult)
    assert await routed("qwertz", chosen, engine) == ("poet" if consult else "parrot")
    assert bool(engine.requests) == consult


# Dispatch


class Crowd(Skill):
    """Count who answers at once."""

    name = "crowd"
    examples = ("who is there?", "count yourselves")

    def __init__(self, expected: int) -> None:
        super().__init__()
        self.most = self.running = 0
        self._expected = expected
        self._full = asyncio.Event()

    async def answer(self, turn: Turn) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running >= self._expected:
            self._full.set()
        await self._full.wait()
        for _ in range(100):  # one that may not run yet would come now
            await asyncio.sleep(0)
        self.running -= 1
        await turn.say("here")


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_turns_run_at_once_than_set(concurrency: int) -> None:
    crowd = Crowd(concurrency)
    chosen = settings(
        dispatch=DispatchSettings(max_running=concurrency), routing=RoutingSettings(default="crowd")
    )
    async with converse(crowd, settings=chosen) as chat:
        threads = [Conversation("default", "test", str(number)) for number in range(4)]
        chats = [ChatClient(chat.server, thread, "alice") for thread in threads]
        views = [await chat.server.subscribe(each.conversation, each.recorder) for each in chats]
        assert await asyncio.gather(*(each.say("who?") for each in chats)) == ["here"] * 4
        for view in views:
            chat.server.unsubscribe(view)
    assert crowd.most == concurrency


@pytest.mark.parametrize("inbox", [1, 3])
async def test_no_more_messages_wait_in_a_conversation_than_set(inbox: int) -> None:
    engine = ScriptedEngine(lambda _: ScriptedReply(text="one two", pause_after=1))
    chosen = settings(admission=AdmissionSettings(inbox_limit=inbox))
    async with converse(Parrot, settings=chosen, engine=engine) as chat:
        turns = [await chat.send("first")]
        await chat.recorder.wait_for(turns[0], text="one")
        turns += [await chat.send(f"number {number}") for number in range(inbox)]
        with pytest.raises(TooMany):
            await chat.send("one too many")
        assert b'palaver_refusals_total{reason="inbox"} 1.0' in chat.server.metrics.exposition()
        engine.resume()
        for turn in turns:
            assert await chat.reply(turn) == "one two"


class NotingLedger(MemoryLedger):
    """A ledger that notes for how long turns are leased."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: set[float] = set()

    async def claim(
        self, worker: str, *, lease: float, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Claim | None:
        self.leases.add(lease)
        return await super().claim(
            worker, lease=lease, history=history, history_bytes=history_bytes
        )


async def test_turns_are_leased_for_as_long_as_set() -> None:
    ledger = NotingLedger()
    chosen = settings(dispatch=DispatchSettings(lease=7.0))
    async with converse(Parrot, settings=chosen, ledger=ledger, engine=ScriptedEngine("x")) as chat:
        await chat.say("hello")
    assert ledger.leases == {7.0}


@pytest.mark.parametrize(("attempts", "outcome"), [(1, "failed"), (2, "done")])
async def test_a_turn_fails_after_its_attempts(attempts: int, outcome: str) -> None:
    clock = [1000.0]
    ledger = MemoryLedger(clock=lambda: clock[0])
    await ledger.start()
    conversation = Conversation("default", "test", "main")
    message = Message(conversation=conversation, id="1", person="alice", text="poison")
    turn = (await ledger.accept(message)).turn
    assert await ledger.claim("dead", lease=1.0, history=0)
    clock[0] += 60
    chosen = settings(dispatch=DispatchSettings(max_attempts=attempts))
    async with converse(Parrot, settings=chosen, ledger=ledger, engine=ScriptedEngine("x")) as chat:
        assert (await chat.reply(turn)).outcome == outcome
