"""`aurora backup …`: the group of verbs."""

import typer

from aurora.cli.lazy import Verb, group_of

VERBS = {
    "create": Verb("aurora.cli.create:create"),
    "list": Verb("aurora.cli.listing:list_backups"),
    "status": Verb("aurora.cli.status:status"),
    "verify": Verb("aurora.cli.verify:verify"),
    "heal": Verb("aurora.cli.verify:heal"),
    "replicate": Verb("aurora.cli.create:replicate"),
    "restore": Verb("aurora.cli.restore:restore"),
    "restore-point": Verb("aurora.cli.recover:restore_point"),
    "restore-full": Verb("aurora.cli.restore:restore_full"),
    "restore-table": Verb("aurora.cli.restore:restore_table"),
    "restore-bucket": Verb("aurora.cli.objects:restore_bucket"),
    "restore-object": Verb("aurora.cli.objects:restore_object"),
    "validate": Verb("aurora.cli.proof:validate"),
    "test-recovery": Verb("aurora.cli.proof:recovery_test"),
    "mark": Verb("aurora.cli.mark:mark"),
    "prune": Verb("aurora.cli.prune:prune"),
    "hold": Verb("aurora.cli.prune:hold"),
    "release": Verb("aurora.cli.prune:release"),
    "undelete": Verb("aurora.cli.prune:undelete"),
    "rewind-storage": Verb("aurora.cli.rewind:rewind_storage"),
}
backup = typer.Typer(cls=group_of(VERBS), no_args_is_help=True, rich_markup_mode=None)
